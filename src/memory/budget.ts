import os from 'node:os'
import { MemoryError } from '../errors.ts'
import type { LlamaConfig } from '../model/config.ts'
import { gpu } from '../tensor/device.ts'
import type { Device } from '../tensor/tensor.ts'
import {
  describeRecompute,
  type RecomputeChoice,
  recomputeCost,
  recomputePlans,
  withOffloadedOutputs,
} from '../train/recompute.ts'
import { formatBytes, parseBytes } from './bytes.ts'
import { type MemoryPlan, type TrainingShape, trainingPlanner } from './planner.ts'
import { describeSavings } from './savings.ts'

/** Left on the GPU for what CUDA takes by itself once training runs: the code of kernels and the rounding of its pools. */
const cudaMargin = 256 << 20

/**
 * Bytes that training may take: `memory`, else on a GPU what is free there but 256 MiB, else any number.
 * @throws {ConfigError} `E_CONFIG`: `memory` is no amount
 */
export function memoryBudget(memory: string | number | undefined, onGpu: boolean): number {
  if (memory !== undefined) return parseBytes(memory, 'memory')
  return onGpu ? gpu().freeBytes - cudaMargin : Number.POSITIVE_INFINITY
}

/** Pinned host memory that offloaded outputs may take together with the inputs: half of what the system has. */
const hostBudget = (): number => os.totalmem() / 2

/**
 * The first of `candidates` that `fits`, found by halves: each takes no more than the one before. The last one where none does.
 */
export function firstThat<T>(candidates: readonly T[], fits: (candidate: T) => boolean): T {
  let [low, high] = fits(candidates[0]!) ? [0, 0] : [1, candidates.length - 1]
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    if (fits(candidates[middle]!)) high = middle
    else low = middle + 1
  }
  return candidates[high]!
}

/**
 * The fastest plan that fits `budget` bytes, of those that `choice` leaves. Embedding and head go to NF4, which changes
 * results as recomputation does not, only where `shape` says so, or leaves it open and nothing else fits.
 * @throws {MemoryError} `E_MEMORY`: none fits; the message has the figures, and what would take less
 * @throws {ConfigError} `E_CONFIG`: `offload` where there is nothing to offload
 */
export function planWithin(
  config: LlamaConfig,
  shape: TrainingShape,
  choice: RecomputeChoice,
  budget: number,
  device: Device,
): MemoryPlan {
  const plans = recomputePlans(choice, config.layers.length, device)
  const canSend = device.activations === 'bf16' && choice.recompute === 'auto' && choice.offload === undefined
  const fits = ({ bytes: { total, host } }: MemoryPlan) => total <= budget && host <= hostBudget()
  const fastest = (quantizeTables: boolean | undefined) => {
    const planOf = trainingPlanner(config, { ...shape, quantizeTables }, device)
    const first = (family: typeof plans) => planOf(firstThat(family, (plan) => planOf(plan).bytes.total <= budget))
    const plain = first(plans)
    // A layer with `full`, its outputs offloaded or not, costs more than one with less.
    if (!canSend || plain.recompute.full === 0) return plain
    return [1, 1 / 3]
      .map((share) => plans.flatMap((plan) => withOffloadedOutputs(config, plan, share)))
      .filter((family) => family.length > 0)
      .map(first)
      .filter(fits)
      .reduce((a, b) => (recomputeCost(b.recompute) < recomputeCost(a.recompute) ? b : a), plain)
  }
  const { quantize, quantizeTables } = shape
  let plan = fastest(quantizeTables)
  if (plan.bytes.total > budget && quantizeTables === undefined && quantize === 'nf4') plan = fastest(true)
  const { total, tables, projections, norms, adapter, activations, scratch } = plan.bytes
  if (total <= budget) return plan
  const parts = { weights: tables + projections + norms, 'the adapter': adapter, activations, scratch }
  throw new MemoryError('E_MEMORY', 'training does not fit the memory', {
    field: 'memory',
    expected: `at most ${formatBytes(budget)}`,
    found: [
      `${formatBytes(total)} with recompute ${describeRecompute(plan.recompute)}`,
      ...Object.entries(parts).map(([part, bytes]) => `${formatBytes(bytes)} for ${part}`),
    ].join(', '),
    remedy: describeSavings(config, shape, plan, device),
  })
}
