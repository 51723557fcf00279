import { expectedTensors, type LlamaConfig } from '../model/config.ts'
import { buildModel, heldBytes } from '../model/model.ts'
import { heldDtype } from '../model/weights.ts'
import { metaOf } from '../tensor/device.ts'
import { type Device, type Tensor, zeros } from '../tensor/tensor.ts'
import { AdamW, adamWDefaults } from '../train/adamW.ts'
import { alignedNames, trainWeights } from '../train/align.ts'
import { offloadMemory } from '../train/offload.ts'
import { ParameterSet } from '../train/parameters.ts'
import { type RecomputeChoice, type RecomputePlan, recomputePlans } from '../train/recompute.ts'
import { accumulate } from '../train/step.ts'
import { firstThat } from './budget.ts'
import { arenaBytes, fullMicroBatch } from './measure.ts'
import { scratchBytes } from './scratch.ts'

/** Bytes on each of several GPUs that align all weights of a model together. */
export interface AlignmentPlan {
  gpus: number
  bytes: {
    /** What the model computes with. */
    weights: number
    gradients: number
    /** Each GPU's part of the optimizer's state, and of the weights in f32 where they are divided. */
    state: number
    activations: number
    /** The most that one op takes on the GPU beside the arena. */
    scratch: number
    total: number
  }
  recompute: RecomputePlan
  /** Whether that is within the budget. */
  fits: boolean
}

/** Plans alignment without pairs: a step on meta, as {@link trainingPlanner}. */
export function planAlignment(
  config: LlamaConfig,
  { microBatchSize, sequenceLength }: { microBatchSize: number; sequenceLength: number },
  choice: RecomputeChoice,
  gpus: number,
  budget: number,
  device: Device,
): AlignmentPlan {
  const meta = metaOf(device)
  const shapes = expectedTensors(config)
  const names = alignedNames({ config })
  const parameters = new ParameterSet(meta, new Map(names.map((name) => [name, shapes.get(name)!])), {
    share: { rank: 0, size: gpus },
  })
  const { firstMoment, secondMoment } = new AdamW(parameters, adamWDefaults)
  const weight = (name: string, shape: readonly number[]): Tensor =>
    parameters.byName.get(name)?.operand ??
    meta.empty(shape, shape.length === 1 ? 'f32' : heldDtype(device, config.dtype))
  const model = buildModel(config, meta, { linear: weight, table: weight, vector: weight })
  trainWeights(model, parameters)
  const moments = firstMoment.bytes + secondMoment.bytes
  const tokens = microBatchSize * sequenceLength
  const constant = {
    weights: heldBytes(model),
    gradients: parameters.grads.bytes,
    state: parameters.isDivided ? moments + parameters.values.bytes : moments,
    scratch: scratchBytes(model, tokens, device),
  }
  const planOf = (recompute: RecomputePlan): AlignmentPlan => {
    const activations = arenaBytes(device, (arena) => {
      const host = offloadMemory(arena, config, recompute, tokens)
      accumulate({ model, arena, host, recompute }, fullMicroBatch(tokens), 1, zeros(arena, [1], 'f32'))
    })
    const total = Object.values(constant).reduce((sum, bytes) => sum + bytes) + activations
    return { gpus, bytes: { ...constant, activations, total }, recompute, fits: total <= budget }
  }
  return planOf(firstThat(recomputePlans(choice, config.layers.length, device), (plan) => planOf(plan).fits))
}
