import { permutation } from '../data/random.ts'
import type { KeptLayer, PruningPlan } from '../formats/pruningJson.ts'
import { addAdapter, type LoraOptions } from '../lora/attach.ts'
import { tensorsOf } from '../model/linear.ts'
import { linears, type Model, type Projection, parseModule } from '../model/model.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import { held, type Quantization, readTensor } from '../model/weights.ts'
import { cast, copyInto } from '../native/cast.ts'
import { gatherColumns, gatherRows, scatterColumns, scatterRows } from '../native/gather.ts'
import { fillUniform } from '../native/random.ts'
import { keptIndices, originalWidths } from '../prune/plan.ts'
import { sliceWeight } from '../prune/slice.ts'
import { cpu } from '../tensor/device.ts'
import { type Tensor, tensorFrom } from '../tensor/tensor.ts'
import { ParameterSet } from './parameters.ts'

export interface RotationOptions {
  /** Steps between two slices. */
  every: number
  /** Multiplies what is kept by one over its share, as inverted dropout does. */
  rescale: boolean
}

/** What of a module's pair is cut: its side, the original's width there, and the indices that are kept now. */
interface Slice {
  side: 'out' | 'in'
  width: number
  indices: Int32Array
}

/**
 * Lets the small model be another slice of the original every few steps, while one adapter of the original's dimensions
 * trains: before a step the pairs of the present slice are gathered from it, afterwards their gradients scattered to its.
 * The core of the plan stays in every slice; what fills it up follows from seed and step, so that nothing needs saving.
 * Weights are read from the original's files anew, of which the system keeps in memory what it has room for.
 */
export class Rotation {
  /** The adapter in the original's dimensions; what is not in the present slice has a gradient of 0. */
  readonly parameters: ParameterSet
  private readonly model: Model
  private readonly original: OpenCheckpoint
  private readonly plan: PruningPlan
  private readonly options: RotationOptions & { quantize: Quantization; seed: number }
  /** The pairs that the small model computes with. */
  private readonly pairs: ParameterSet
  private kept: readonly KeptLayer[] = []
  private turn = -1

  /** @param plan of the pruned model that `model` is; it says how much each layer keeps, and its core */
  constructor(
    model: Model,
    original: OpenCheckpoint,
    plan: PruningPlan,
    lora: LoraOptions,
    options: RotationOptions & { quantize: Quantization; seed: number },
  ) {
    this.model = model
    this.original = original
    this.plan = plan
    this.options = options
    this.kept = plan.kept
    this.pairs = addAdapter(model, lora, options.seed)
    const shapes = Array.from(this.pairs.byName, ([name, { value }]) => [name, this.fullShape(name, value)] as const)
    this.parameters = new ParameterSet(model.device, new Map(shapes))
    for (const [name, { value }] of this.parameters.byName) {
      if (!name.endsWith('.lora_A')) continue
      const bound = 1 / Math.sqrt(value.shape[1]!)
      fillUniform(value, -bound, bound, { seed: options.seed, stream: this.linear(name).lora!.index })
    }
    if (options.rescale) this.rescalePairs()
  }

  /** Makes the model the slice of step `step`, with the adapter as it is now. */
  before(step: number): void {
    const turn = Math.floor(step / this.options.every)
    if (turn !== this.turn) this.take(turn)
    for (const [name, { value }] of this.pairs.byName) {
      const full = this.parameters.get(name).value
      const cut = this.cutOf(name)
      if (!cut) copyInto(full, value)
      else {
        const index = tensorFrom(this.model.device, cut.indices)
        const gathered = cut.side === 'out' ? gatherRows(full, index) : gatherColumns(full, index)
        copyInto(gathered, value)
        for (const tensor of [gathered, index]) tensor.dispose()
      }
    }
    this.pairs.round()
    this.pairs.zeroGrads()
  }

  /** Brings the gradients of a step to the whole adapter, whose own are zero. */
  after(): void {
    for (const [name, { grad }] of this.pairs.byName) {
      const full = this.parameters.get(name).grad
      const cut = this.cutOf(name)
      if (!cut) copyInto(grad, full)
      else {
        const index = tensorFrom(this.model.device, cut.indices)
        if (cut.side === 'out') scatterRows(grad, index, full)
        else scatterColumns(grad, index, full)
        index.dispose()
      }
    }
  }

  dispose(): void {
    for (const set of [this.parameters, this.pairs]) set.dispose()
  }

  /** Cuts the slice of turn `turn` out of the original. */
  private take(turn: number): void {
    this.turn = turn
    this.kept = this.plan.kept.map((layer) => draw(layer, this.plan, this.options.seed, turn))
    const plan = { ...this.plan, kept: [...this.kept] }
    for (const [name, linear] of linears(this.model)) {
      const place = parseModule(name)
      if (!place || !this.layer(place.layer)) continue
      const weight = this.sliceOf(`${name}.weight`, plan)
      const scaled = multiplied(weight, this.factor(place))
      for (const tensor of tensorsOf(linear.weight)) tensor.dispose()
      linear.weight = held(scaled, this.model.device, this.options.quantize)
      for (const tensor of new Set([weight, scaled])) tensor.dispose()
      if (linear.bias) linear.bias.values.write(cast(this.sliceOf(`${name}.bias`, plan), 'f32').read())
    }
  }

  private sliceOf(name: string, plan: PruningPlan): Tensor {
    const whole = readTensor(this.original.checkpoint, name, cpu)
    const sliced = sliceWeight(name, whole, plan)
    if (sliced !== whole) whole.dispose()
    return sliced
  }

  private layer(index: number): KeptLayer | undefined {
    return this.kept.find(({ layer }) => layer === index)
  }

  private linear(parameter: string) {
    return linears(this.model).get(parameter.replace(/\.lora_[AB]$/, ''))!
  }

  /** What is cut of A or B; only the side that pruning cuts. */
  private cutOf(parameter: string): Slice | undefined {
    const [, module, part] = /^(.*)\.lora_([AB])$/.exec(parameter)!
    const place = parseModule(module!)
    const kept = place && this.layer(place.layer)
    if (!kept) return undefined
    const { side, indices } = keptIndices(place.projection, kept, this.plan.source)
    const width = originalWidths(this.plan.source)[place.projection]
    return side === (part === 'B' ? 'out' : 'in') ? { side, width, indices } : undefined
  }

  private fullShape(name: string, { shape }: Tensor): number[] {
    const cut = this.cutOf(name)
    const [rows, columns] = shape as [number, number]
    if (!cut) return [rows, columns]
    return cut.side === 'out' ? [cut.width, columns] : [rows, cut.width]
  }

  /** What the inputs of `down` and `o`, which are cut, are multiplied by. */
  private factor({ layer, projection }: { layer: number; projection: Projection }): number {
    const kept = this.layer(layer)
    if (!this.options.rescale || !kept) return 1
    const { intermediateSize, numKeyValueHeads } = this.plan.source
    if (projection === 'down') return intermediateSize / kept.channels.length
    return projection === 'o' ? numKeyValueHeads / kept.kvHeads.length : 1
  }

  private rescalePairs(): void {
    for (const [name, linear] of linears(this.model)) {
      const place = parseModule(name)
      if (place && linear.lora) linear.lora = { ...linear.lora, scale: linear.lora.scale * this.factor(place) }
    }
  }
}

/** As many structures as `layer` has: the core of the plan, and others at random. */
function draw({ layer, channels, kvHeads }: KeptLayer, plan: PruningPlan, seed: number, turn: number): KeptLayer {
  const core = plan.core?.find((one) => one.layer === layer)
  const fill = (kept: number, all: number, always: readonly number[], kind: number): number[] => {
    const fixed = new Set(always)
    const others = Array.from({ length: all }, (_, i) => i).filter((i) => !fixed.has(i))
    const order = permutation(others.length, seed, 2 * (turn * plan.source.numHiddenLayers + layer) + kind)
    const drawn = Array.from(order.subarray(0, kept - fixed.size), (i) => others[i]!)
    return [...fixed, ...drawn].sort((a, b) => a - b)
  }
  const { intermediateSize, numKeyValueHeads } = plan.source
  return {
    layer,
    channels: fill(channels.length, intermediateSize, core?.channels ?? [], 0),
    kvHeads: fill(kvHeads.length, numKeyValueHeads, core?.kvHeads ?? [], 1),
  }
}

/** The weight itself where there is nothing to multiply by. */
function multiplied(weight: Tensor, factor: number): Tensor {
  if (factor === 1) return weight
  const wide = cast(weight, 'f32')
  const values = (wide.read() as Float32Array).map((value) => value * factor)
  const result = cast(wide.write(values), weight.dtype)
  wide.dispose()
  return result
}
