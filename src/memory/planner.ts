import { MemoryError } from '../errors.ts'
import { addAdapter, type LoraOptions } from '../lora/attach.ts'
import { expectedTensors, type LlamaConfig } from '../model/config.ts'
import { tensorsOf, type Weight } from '../model/linear.ts'
import { linears, type Model, norms } from '../model/model.ts'
import type { Quantization } from '../model/weights.ts'
import { nf4ScratchBytes } from '../native/nf4.ts'
import { elements } from '../tensor/dtype.ts'
import type { Device } from '../tensor/tensor.ts'
import { AdamW, adamWDefaults } from '../train/adamW.ts'
import { type Recompute, recomputes, trainStep } from '../train/step.ts'
import { formatBytes } from './bytes.ts'
import { arenaBytes, fullMicroBatch, metaModel } from './measure.ts'

/** What decides how much memory training takes. */
export interface TrainingShape {
  quantize: Quantization
  lora: LoraOptions
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
    /** What the largest matrix in NF4 becomes while the GPU multiplies by it. */
    scratch: number
    total: number
  }
  recompute: Recompute
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

function scratchBytes(model: Model, device: Device): number {
  if (device.activations === 'f32') return 0
  const weights = Array.from(linears(model).values(), ({ weight }) => weight)
  return Math.max(0, ...weights.map((weight) => ('packed' in weight ? nf4ScratchBytes(weight.shape, device) : 0)))
}

/** The memory of a training run on `device`, found by running one step of it on meta. */
export function planTraining(
  config: LlamaConfig,
  shape: TrainingShape,
  recompute: Recompute,
  device: Device,
): MemoryPlan {
  const model = metaModel(config, shape.quantize, device)
  const parameters = addAdapter(model, shape.lora, 0)
  const optimizer = new AdamW(parameters, adamWDefaults)
  const dropout = { rate: shape.lora.dropout, seed: 0 }
  const microBatches = [fullMicroBatch(shape.microBatchSize * shape.sequenceLength)]
  const activations = arenaBytes(device, (arena) => {
    const trainer = { model, parameters, optimizer, arena, maxGradNorm: 1, recompute, dropout }
    trainStep(trainer, { microBatches, targetCount: 1, epoch: 0, examples: [] }, 0)
  })
  const original = countParameters(unprunedConfig(config))
  const trained = countParameters(config)
  const weights = modelBytes(model)
  const adapter = 4 * parameters.values.bytes
  const scratch = scratchBytes(model, device)
  return {
    parameters: { original, trained, adapter: parameters.count },
    bytes: {
      ...weights,
      adapter,
      activations,
      scratch,
      total: weights.tables + weights.projections + weights.norms + adapter + activations + scratch,
    },
    recompute,
    reduction: original / (shape.quantize === 'nf4' ? trained / 4 : trained),
  }
}

/**
 * The plan with the least recomputation that fits `budget` bytes, from `recompute` on.
 * @throws {MemoryError} `E_MEMORY`: none fits; the message has the figures
 */
export function planWithin(
  config: LlamaConfig,
  shape: TrainingShape,
  recompute: Recompute,
  budget: number,
  device: Device,
): MemoryPlan {
  const policies = recomputes.slice(recomputes.indexOf(recompute))
  const plans = policies.map((policy) => planTraining(config, shape, policy, device))
  const fitting = plans.find(({ bytes }) => bytes.total <= budget)
  if (fitting) return fitting
  const { bytes } = plans.at(-1)!
  throw new MemoryError('E_MEMORY', 'training does not fit the memory budget', {
    field: 'memory',
    expected: `at most ${formatBytes(budget)}`,
    found: `${formatBytes(bytes.total)} with full recompute: ${formatBytes(bytes.tables + bytes.projections + bytes.norms)} of weights, ${formatBytes(bytes.adapter)} for the adapter, ${formatBytes(bytes.activations)} of activations`,
    remedy:
      'lower microBatchSize or sequenceLength (activations), raise the pruning ratio (weights), or raise the budget',
  })
}
