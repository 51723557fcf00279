import { permutation } from '../data/random.ts'
import type { KeptLayer, PruningPlan } from '../formats/pruningJson.ts'
import { addAdapter, type LoraOptions } from '../lora/attach.ts'
import type { Linear, LoraPair } from '../model/linear.ts'
import { linears, type Model, moduleOf, type Projection, parseModule, projectionNames } from '../model/model.ts'
import type { Hold, OpenCheckpoint } from '../model/open.ts'
import { readTensor } from '../model/weights.ts'
import { cast, copyInto } from '../native/cast.ts'
import { gatherColumns, gatherRows, scatterColumns, scatterRows } from '../native/gather.ts'
import { quantizeNf4 } from '../native/nf4.ts'
import { fillUniform } from '../native/random.ts'
import { keptIndices, originalWidths } from '../prune/plan.ts'
import type { Arena } from '../tensor/arena.ts'
import { cpu, hostOf } from '../tensor/device.ts'
import { awaitTransfers, transfer } from '../tensor/hostMemory.ts'
import { Tensor, type TensorData, tensorFrom } from '../tensor/tensor.ts'
import { type Parameter, ParameterSet } from './parameters.ts'

export interface RotationOptions {
  /** Steps between two slices. */
  every: number
  /** Multiplies what is kept by one over its share, as inverted dropout does. */
  rescale: boolean
  /** Where the original's weights wait: `resident` in host memory, `streamed` in its files. */
  hold: Hold
}

/** What training adds. */
interface Setting {
  seed: number
  /** Of a step, which is empty before one. It has room for two weights of the original. */
  arena: Arena
}

/** The side of a pair that is cut: gathered from the adapter, while the other one is the adapter's own. */
interface CutPart {
  readonly module: string
  readonly side: 'out' | 'in'
  readonly whole: Parameter
  readonly part: Parameter
}

/**
 * Lets the small model be another slice of the original every few steps, while one adapter of the original's dimensions
 * trains: before a step the pairs of the present slice are gathered from it, afterwards their gradients scattered to its.
 * The core of the plan stays in every slice; what fills it up follows from seed and step, so that nothing needs saving.
 */
export class Rotation {
  /** The adapter in the original's dimensions; what is not in the present slice has a gradient of 0. */
  readonly parameters: ParameterSet
  private readonly model: Model
  private readonly original: OpenCheckpoint
  private readonly plan: PruningPlan
  private readonly options: RotationOptions & Setting
  /** What the small model's pairs would be without rotation; of them the cut sides are used. */
  private readonly pairs: ParameterSet
  private readonly cutParts: CutPart[]
  /** Where each module is cut now. */
  private readonly indices = new Map<string, Tensor>()
  /** Weights of the original in host memory, those that are multiplied already so. */
  private readonly resident = new Map<string, Tensor>()
  private turn = -1

  /** @param plan of the pruned model that `model` is; it says how much each layer keeps, and its core */
  constructor(
    model: Model,
    original: OpenCheckpoint,
    plan: PruningPlan,
    lora: LoraOptions,
    options: RotationOptions & Setting,
  ) {
    this.model = model
    this.original = original
    this.plan = plan
    this.options = options
    this.pairs = addAdapter(model, lora, options.seed)
    const shapes = Array.from(this.pairs.byName, ([name, { value }]) => [name, this.fullShape(name, value)] as const)
    this.parameters = new ParameterSet(model.device, new Map(shapes), { rounds: true })
    this.cutParts = Array.from(this.pairs.byName).flatMap(([name, part]) => {
      const side = this.cutSide(name)
      return side ? [{ module: moduleOfPair(name), side, whole: this.parameters.get(name), part }] : []
    })
    for (const [module, linear] of linears(model)) if (linear.lora) this.joinPair(module, linear.lora)
    this.parameters.round()
  }

  /** Makes the model the slice of step `step`, with the adapter as it is now. */
  before(step: number): void {
    const turn = Math.floor(step / this.options.every)
    if (turn !== this.turn) this.take(turn)
    for (const { module, side, whole, part } of this.cutParts) {
      const gather = side === 'out' ? gatherRows : gatherColumns
      gather(whole.value, this.indices.get(module)!, part.value)
    }
    this.pairs.round()
    this.pairs.zeroGrads()
  }

  /** Brings the gradients of a step to the whole adapter. */
  after(): void {
    for (const { module, side, whole, part } of this.cutParts) {
      const scatter = side === 'out' ? scatterRows : scatterColumns
      scatter(part.grad, this.indices.get(module)!, whole.grad)
    }
  }

  dispose(): void {
    for (const set of [this.parameters, this.pairs]) set.dispose()
    for (const tensor of [...this.indices.values(), ...this.resident.values()]) tensor.dispose()
  }

  /** Cuts the slice of turn `turn` out of the original. */
  private take(turn: number): void {
    const { arena } = this.options
    this.turn = turn
    for (const layer of this.plan.kept) {
      const kept = draw(layer, this.plan, this.options.seed, turn)
      for (const projection of projectionNames) {
        const module = moduleOf(layer.layer, projection)
        const { side, indices } = keptIndices(projection, kept, this.plan.source)
        const index = this.indices.get(module)?.write(indices) ?? tensorFrom(this.model.device, indices)
        this.indices.set(module, index)
        const mark = arena.mark()
        this.replace(this.model.layers[layer.layer]![projection], module, side, index)
        arena.release(mark)
      }
    }
  }

  private replace(linear: Linear, module: string, side: 'out' | 'in', index: Tensor): void {
    const whole = this.wholeWeight(`${module}.weight`)
    const sliced = side === 'out' ? gatherRows(whole, index) : gatherColumns(whole, index)
    if (linear.weight instanceof Tensor) copyInto(sliced, linear.weight)
    else quantizeNf4(sliced, { into: linear.weight })
    if (!linear.bias || side === 'in') return
    const bias = readTensor(this.original.checkpoint, `${module}.bias`, cpu, false)
    const values = gatherRows(bias.slice(0, [bias.elements, 1]), tensorFrom(cpu, index.read() as Int32Array))
    linear.bias.values.write(cast(values, 'f32').read())
  }

  /** A weight of the original in the arena, times what its inputs want to be multiplied by. */
  private wholeWeight(name: string): Tensor {
    const { arena, hold } = this.options
    const { shape, dtype } = this.original.checkpoint.tensors.get(name)!
    const whole = arena.empty(shape, dtype)
    if (hold === 'streamed') return whole.write(this.read(name))
    let resident = this.resident.get(name)
    if (!resident) {
      resident = hostOf(this.model.device).empty(shape, dtype).write(this.read(name))
      this.resident.set(name, resident)
    }
    transfer(resident, whole, 0)
    awaitTransfers(arena, 0)
    return whole
  }

  private read(name: string): TensorData {
    const stored = readTensor(this.original.checkpoint, name, cpu, false)
    const scaled = multiplied(stored, this.factor(parseModule(name)!))
    const data = scaled.read()
    for (const tensor of new Set([stored, scaled])) tensor.dispose()
    return data
  }

  /** Draws A as for a model that is not pruned, and lets the small one compute with the sides that are not cut. */
  private joinPair(module: string, pair: LoraPair): void {
    const names = { a: `${module}.lora_A`, b: `${module}.lora_B` }
    const whole = this.parameters.get(names.a).value
    const bound = 1 / Math.sqrt(whole.shape[1]!)
    fillUniform(whole, -bound, bound, { seed: this.options.seed, stream: pair.index })
    const [a, b] = [names.a, names.b].map((name) => (this.cutSide(name) ? this.pairs : this.parameters).get(name))
    const place = parseModule(module)
    const scale = pair.scale * (place ? this.factor(place) : 1)
    const grads = { a: a!.grad, b: b!.grad }
    linears(this.model).get(module)!.lora = { ...pair, a: a!.operand, b: b!.operand, grads, scale }
  }

  private layer(index: number): KeptLayer | undefined {
    return this.plan.kept.find(({ layer }) => layer === index)
  }

  /** What is cut of A or B: the side that pruning cuts, or nothing. */
  private cutSide(parameter: string): 'out' | 'in' | undefined {
    const place = parseModule(moduleOfPair(parameter))
    const kept = place && this.layer(place.layer)
    if (!kept) return undefined
    const { side } = keptIndices(place.projection, kept, this.plan.source)
    return side === (parameter.endsWith('.lora_B') ? 'out' : 'in') ? side : undefined
  }

  private fullShape(name: string, { shape }: Tensor): number[] {
    const [rows, columns] = shape as [number, number]
    const side = this.cutSide(name)
    if (!side) return [rows, columns]
    const width = originalWidths(this.plan.source)[parseModule(moduleOfPair(name))!.projection]
    return side === 'out' ? [width, columns] : [rows, width]
  }

  /** What the inputs of `down` and `o`, which are cut, are multiplied by. */
  private factor({ layer, projection }: { layer: number; projection: Projection }): number {
    const kept = this.layer(layer)
    if (!this.options.rescale || !kept) return 1
    const { intermediateSize, numKeyValueHeads } = this.plan.source
    if (projection === 'down') return intermediateSize / kept.channels.length
    return projection === 'o' ? numKeyValueHeads / kept.kvHeads.length : 1
  }
}

const moduleOfPair = (parameter: string): string => parameter.replace(/\.lora_[AB]$/, '')

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
