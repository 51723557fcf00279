import { evaluationBatches, type MicroBatch } from '../data/batches.ts'
import type { Example } from '../data/encode.ts'
import { arenaBytes, fullMicroBatch, metaModel } from '../memory/measure.ts'
import { type BlockConstants, blockForward, type Layer } from '../model/block.ts'
import { blockConstants, buildLayer, disposeLayer, type Projection } from '../model/model.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import { checkpointSource } from '../model/weights.ts'
import { cast, copyInto } from '../native/cast.ts'
import { embedding } from '../native/embedding.ts'
import { gemm } from '../native/gemm.ts'
import { importance } from '../native/importance.ts'
import { Arena } from '../tensor/arena.ts'
import { cpu } from '../tensor/device.ts'
import { type Device, Tensor, tensorFrom, zeros } from '../tensor/tensor.ts'
import { toDevice } from '../train/step.ts'

/** The four inputs of a layer's linear maps, and the projections that read each. */
export const inputsOf = {
  attention: ['q', 'k', 'v'],
  heads: ['o'],
  mlp: ['gate', 'up'],
  channels: ['down'],
} as const satisfies Record<string, readonly Projection[]>
type Input = keyof typeof inputsOf
const inputNames = Object.keys(inputsOf) as Input[]

/** Calibration text on its way through a model whose layers are read, pruned and left behind one by one. */
export class Calibration {
  private readonly source: OpenCheckpoint
  private readonly device: Device
  private readonly constants: BlockConstants
  private readonly arena: Arena
  /** Sequences, each with its hidden states [tokens, hidden] before the next layer. */
  private readonly sequences: { micro: MicroBatch; x: Tensor }[]

  constructor(source: OpenCheckpoint, text: readonly Example[], device: Device) {
    const longest = Math.max(...text.map(({ ids }) => ids.length))
    this.source = source
    this.device = device
    this.constants = blockConstants(source.config, device)
    const table = this.weights().table('model.embed_tokens.weight', []) as Tensor // never in NF4 here
    const batches = evaluationBatches(text, { microBatchSize: 1, sequenceLength: longest })
    this.sequences = Array.from(batches, (micro) => ({ micro, x: embedding(table, tensorFrom(device, micro.ids)) }))
    table.dispose()
    const { nf4: _, ...config } = source.config
    const { layers, constants } = metaModel(config, { quantize: 'none' }, device)
    const largest = fullMicroBatch(longest)
    const bytes = arenaBytes(device, (arena) => {
      for (const layer of layers) {
        const x = arena.empty([longest, source.config.hiddenSize], device.activations)
        pass(layer, constants, arena, largest, x)
      }
    })
    this.arena = new Arena(device, bytes)
  }

  /** Reads layer `index`; layers are opened in order. */
  open(index: number): CalibratedLayer {
    const layer = buildLayer(this.source.config, index, this.weights())
    return new CalibratedLayer(layer, this.sequences.length, this.device, (visit) => {
      for (const { micro, x } of this.sequences) pass(layer, this.constants, this.arena, micro, x, visit)
    })
  }

  dispose(): void {
    this.arena.dispose()
    for (const { x } of this.sequences) x.dispose()
  }

  private weights() {
    const options = { quantize: 'none', dequantize: true, checkFinite: true } as const
    return checkpointSource(this.source.checkpoint, this.device, options)
  }
}

type Visit = (input: Input, states: Tensor) => void

/** One sequence through one layer: with `visit` what its projections read is shown, without `x` moves on. */
function pass(
  layer: Layer,
  constants: BlockConstants,
  arena: Arena,
  micro: MicroBatch,
  x: Tensor,
  visit?: Visit,
): void {
  const mark = arena.mark()
  const input = arena.empty(x.shape, x.dtype)
  copyInto(x, input)
  const { h1, heads, h2, a } = blockForward(layer, constants, input, visit ? undefined : x, toDevice(arena, micro))
  const states: Record<Input, Tensor> = { attention: h1().y, heads: heads.y, mlp: h2().y, channels: a() }
  if (visit) for (const name of inputNames) visit(name, states[name])
  arena.release(mark)
}

/** One layer on the device, and what its projections read of the calibration text. */
export class CalibratedLayer {
  private readonly layer: Layer
  private readonly sequences: number
  private readonly device: Device
  private readonly run: (visit?: Visit) => void

  constructor(layer: Layer, sequences: number, device: Device, run: (visit?: Visit) => void) {
    this.layer = layer
    this.sequences = sequences
    this.device = device
    this.run = run
  }

  /** Of each input the root of its summed squares over all tokens, by sequence: [in]. */
  inputNorms(): Map<Input, Float32Array> {
    const squares = this.measure(
      (size) => [size],
      (states, columnSums) => importance(states, { columnSums, squared: true }),
    )
    return new Map(
      Array.from(squares, ([input, sums]) => [
        input,
        (sums.read() as Float32Array).map((sum) => Math.sqrt(Math.fround(sum / this.sequences))),
      ]),
    )
  }

  /** Of each input 2 X^T X over all tokens, by sequence: [in, in] in host memory. */
  hessians(): Map<Input, Tensor> {
    const alpha = 2 / this.sequences
    const hessians = this.measure(
      (size) => [size, size],
      (states, h) => gemm(states, states, h, { transposeA: true, alpha, beta: 1 }),
    )
    return new Map(Array.from(hessians, ([input, h]) => [input, toHost(h)]))
  }

  /** Lets the layer compute with other weights [out, in], f32 in host memory. */
  replace(projection: Projection, w: Tensor): void {
    const { weight } = this.layer[projection]
    if (weight instanceof Tensor) weight.write(cast(w, weight.dtype).read())
  }

  /** Moves the text on to the next layer. */
  advance(): void {
    this.run()
  }

  dispose(): void {
    disposeLayer(this.layer)
  }

  private measure(
    shapeOf: (size: number) => number[],
    add: (states: Tensor, total: Tensor) => void,
  ): Map<Input, Tensor> {
    const totals = new Map(
      inputNames.map((input) => {
        const size = this.layer[inputsOf[input][0]].weight.shape[1]!
        return [input, zeros(this.device, shapeOf(size), 'f32')]
      }),
    )
    this.run((input, states) => add(states, totals.get(input)!))
    return totals
  }
}

function toHost(tensor: Tensor): Tensor {
  if (tensor.device.kind === 'cpu') return tensor
  const copy = tensorFrom(cpu, tensor.read() as Float32Array, tensor.shape)
  tensor.dispose()
  return copy
}
