import { alone, shareOf, total } from '../../dist/distributed/group.js'
import { addAdapter, loraDefaults } from '../../dist/lora/attach.js'
import { memoryBudget, planWithin } from '../../dist/memory/budget.js'
import { modelBytes } from '../../dist/memory/planner.js'
import { Arena } from '../../dist/tensor/arena.js'
import { gpu, openDevice } from '../../dist/tensor/device.js'
import { AdamW, adamWDefaults } from '../../dist/train/adamW.js'
import { offloadMemory } from '../../dist/train/offload.js'
import { describeRecompute, recomputes } from '../../dist/train/recompute.js'
import { trainStep } from '../../dist/train/step.js'
import { watchGpuMemory } from './machine.mjs'
import { configOf, randomMicroBatch, randomModel } from './models.mjs'
import { time } from './timing.mjs'

/** What `recompute` can be. */
export const policies = recomputes

/**
 * One training run's shape: `model` and `pruned` of models.mjs, `dropout` 0 and `quantize` nf4 unless given. With `memory`
 * the planner chooses what is recomputed within that budget, without it within the free memory; `recompute` leaves it no
 * choice.
 * @typedef {{ model: string, pruned?: number, microBatchSize: number, sequenceLength: number, rank: number, dropout?: number,
 *   quantize?: string, memory?: string, recompute?: string, microBatches?: number, device: string, samples?: number }} Training
 */

/**
 * Tokens per second and bytes of QLoRA steps.
 * @param {Training} options
 * @param group of processes that divide each step's micro-batches
 * @param {number[]} losses gets that of each step
 */
export function measureSteps(options, group = alone, losses = []) {
  const device = openDevice(options.device)
  const { step, tokens, plan, peakBytes } = prepareSteps(options, device, group)
  const timing = time(() => losses.push(step()), device, { samples: options.samples })
  return {
    tokensPerSecond: Math.round((1000 * tokens) / timing.milliseconds),
    peakBytes: peakBytes(),
    plannedBytes: plan.bytes.total,
    recompute: describeRecompute(plan.recompute),
    hostBytes: plan.bytes.host,
    dropout: options.dropout ?? 0,
    firstLoss: losses[0],
    lastLoss: losses.at(-1),
    ...timing,
  }
}

/** What QLoRA steps take beside what was planned, by our count and by nvidia-smi's. @param {Training} options */
export async function measureMemory(options) {
  const device = openDevice(options.device)
  const onGpu = device.kind === 'cuda'
  if (onGpu) gpu() // makes the context
  const contextBytes = onGpu && (await (await watchGpuMemory())())
  const { step, plan, peakBytes } = prepareSteps(options, device)
  const stop = onGpu && (await watchGpuMemory())
  for (let i = 0; i < 5; i++) step()
  return {
    plannedBytes: plan.bytes.total,
    peakBytes: peakBytes(),
    ...(contextBytes && { processBytes: (await stop()) - contextBytes, contextBytes }),
    recompute: describeRecompute(plan.recompute),
  }
}

/** A training run's steps on `device`. @param {Training} options */
export function prepareSteps(options, device, group = alone) {
  const { microBatchSize, sequenceLength, rank, dropout: rate = 0, quantize = 'nf4', microBatches = 1 } = options
  const config = configOf(options)
  const lora = { ...loraDefaults, rank, alpha: 2 * rank, dropout: rate }
  const plan = planOf(config, { quantize, lora, microBatchSize, sequenceLength }, options, device)

  const model = randomModel(config, device, { quantize, quantizeTables: plan.quantizeTables })
  const parameters = addAdapter(model, lora, 0)
  const optimizer = new AdamW(parameters, adamWDefaults)
  const arena = new Arena(device, plan.bytes.activations)
  const { recompute } = plan
  const host = offloadMemory(device, config, recompute, microBatchSize * sequenceLength)
  const dropout = { rate, seed: 1 }
  const trainer = { model, parameters, optimizer, arena, host, maxGradNorm: 1, recompute, dropout, group }
  const micros = Array.from({ length: microBatches }, (_, i) =>
    randomMicroBatch(microBatchSize, sequenceLength, config.vocabSize, i + 1),
  )
  const tokens = microBatches * microBatchSize * sequenceLength
  const batch = { microBatches: [...shareOf(micros, group)], targetCount: tokens, epoch: 0, examples: [] }
  return {
    plan,
    tokens,
    step: () => total(group, [trainStep(trainer, batch, 1e-4).loss])[0],
    /** On the GPU by the allocator's count, ops' scratch included; on the CPU what all tensors and the arena hold. */
    peakBytes() {
      if (device.kind === 'cuda') return gpu().allocatedBytes + gpu().scratchPeakBytes
      const { tables, projections, norms } = modelBytes(model)
      return tables + projections + norms + 4 * parameters.values.bytes + arena.peak
    },
  }
}

function planOf(config, shape, { memory, recompute }, device) {
  const choice = recompute ? { recompute, offload: false } : { recompute: 'auto' }
  return planWithin(config, shape, choice, memoryBudget(memory, device.kind === 'cuda'), device)
}
