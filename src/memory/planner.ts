import { addAdapter, type LoraOptions, withoutPairs } from '../lora/attach.ts'
import { expectedTensors, type LlamaConfig } from '../model/config.ts'
import { tensorsOf, type Weight } from '../model/linear.ts'
import { linears, type Model, norms, projectionNames } from '../model/model.ts'
import type { Holding } from '../model/weights.ts'
import { nf4Sizes } from '../native/nf4.ts'
import type { Arena } from '../tensor/arena.ts'
import { elements } from '../tensor/dtype.ts'
import type { Device } from '../tensor/tensor.ts'
import { AdamW, adamWDefaults } from '../train/adamW.ts'
import { offloadMemory } from '../train/offload.ts'
import type { RecomputePlan } from '../train/recompute.ts'
import { trainStep } from '../train/step.ts'
import { arenaBytes, fullMicroBatch, metaModel } from './measure.ts'
import { scratchBytes } from './scratch.ts'

/** What decides how much memory training takes. Where `quantizeTables` is not given, a budget decides. */
export interface TrainingShape extends Holding {
  lora: LoraOptions
  /** The adapter has the original's dimensions, besides the pairs of the slice that trains. */
  rotates?: boolean
  /** Steps also compare the model with itself without the adapter. */
  preserves?: boolean
  microBatchSize: number
  sequenceLength: number
}

/** Bytes of every part of a training run, counted by a step on meta. */
export interface MemoryPlan {
  /** Weights in the model as it trains; `original` also counts what pruning cut. */
  parameters: { original: number; trained: number; adapter: number }
  bytes: {
    /** The embedding and, unless tied, the output head. */
    tables: number
    /** The seven projections of all layers, biases included. */
    projections: number
    norms: number
    /** Pairs with their gradients and both moments of AdamW. */
    adapter: number
    /** The arena of a step with the largest micro-batch. */
    activations: number
    /** The most that one op takes on the GPU beside the arena: for its largest matrix, or for long sequences. */
    scratch: number
    /** All of the above: on the GPU, what must be free there. */
    total: number
    /** Pinned host memory for what is offloaded, beside the total. */
    host: number
  }
  recompute: RecomputePlan
  /** Whether embedding and head are held in NF4. */
  quantizeTables: boolean
  /** Original parameters over the trained model's, a 4-bit weight counted as a quarter and scales left out, as in the paper. */
  reduction: number
}

export function countParameters(config: LlamaConfig): number {
  return Array.from(expectedTensors(config).values()).reduce((sum, shape) => sum + elements(shape), 0)
}

/** The same model before pruning. */
export const unprunedConfig = (config: LlamaConfig): LlamaConfig => ({
  ...config,
  layers: config.layers.map(() => config),
})

/** Bytes of a weight as it is held, scales included. */
const weightBytes = (weight: Weight): number => tensorsOf(weight).reduce((total, { bytes }) => total + bytes, 0)

/** Bytes of a model's weights by part. */
export function modelBytes(model: Model): Pick<MemoryPlan['bytes'], 'tables' | 'projections' | 'norms'> {
  const sum = (tensors: Iterable<Weight>) =>
    Array.from(tensors).reduce((total, weight) => total + weightBytes(weight), 0)
  const projections = Array.from(linears(model)).filter(([name]) => name !== 'lm_head')
  return {
    tables: sum(new Set([model.embedding.weight, model.head.linear.weight])),
    projections: sum(projections.flatMap(([, { weight, bias }]) => (bias ? [weight, bias.values] : [weight]))),
    norms: sum(Array.from(norms(model).values(), ({ weight }) => weight)),
  }
}

/**
 * Plans training on `device`, by recompute: each call runs one step on meta. The model is built once for all of them.
 */
export function trainingPlanner(
  config: LlamaConfig,
  shape: TrainingShape,
  device: Device,
): (recompute: RecomputePlan) => MemoryPlan {
  const model = metaModel(config, shape, device)
  const parameters = addAdapter(model, shape.lora, 0)
  const optimizer = new AdamW(parameters, adamWDefaults)
  const dropout = { rate: shape.lora.dropout, seed: 0 }
  const tokens = shape.microBatchSize * shape.sequenceLength
  const batch = { microBatches: [fullMicroBatch(tokens)], targetCount: 1, epoch: 0, examples: [] }
  const teacher = { model: withoutPairs(model), weight: 1, temperature: 1 }
  const preserve = shape.preserves ? { teacher, weight: 1, batchAt: () => batch } : undefined
  const original = countParameters(unprunedConfig(config))
  const trained = countParameters(config)
  const reduction = original / (shape.quantize === 'nf4' || config.nf4?.size ? trained / 4 : trained)
  const whole = shape.rotates ? metaModel(unprunedConfig(config), { quantize: 'none' }, device) : undefined
  const adapterBytes = () => {
    const adapter = whole ? addAdapter(whole, shape.lora, 0) : parameters
    const moments = 2 * adapter.values.bytes
    return adapter.bytes + moments + (whole ? parameters.bytes : 0)
  }
  const constant = {
    ...modelBytes(model),
    adapter: adapterBytes(),
    scratch: scratchBytes(model, tokens, device),
  }
  const constantBytes = Object.values(constant).reduce((sum, bytes) => sum + bytes, 0)

  return (recompute) => {
    const host = offloadMemory(model.device, config, recompute, tokens)
    const activations = arenaBytes(device, (arena) => {
      if (whole) cutLargest(whole, arena)
      trainStep({ model, parameters, preserve, optimizer, arena, host, maxGradNorm: 1, recompute, dropout }, batch, 0)
    })
    return {
      parameters: { original, trained, adapter: parameters.count },
      bytes: { ...constant, activations, total: constantBytes + activations, host: host?.bytes ?? 0 },
      recompute,
      quantizeTables: shape.quantizeTables ?? false,
      reduction,
    }
  }
}

/** What cutting a slice takes at most: a weight of the original as stored, what is kept of it, and absmax of that in f32. */
function cutLargest({ config, layers }: Model, arena: Arena): void {
  for (const projection of projectionNames) {
    const { shape } = layers[0]![projection].weight
    const mark = arena.mark()
    for (const dtype of [config.dtype, config.dtype]) arena.empty(shape, dtype)
    arena.empty([nf4Sizes(shape).blocks], 'f32')
    arena.release(mark)
  }
}

/** The memory of a training run on `device`, found by running one step of it on meta. */
export const planTraining = (
  config: LlamaConfig,
  shape: TrainingShape,
  recompute: RecomputePlan,
  device: Device,
): MemoryPlan => trainingPlanner(config, shape, device)(recompute)
