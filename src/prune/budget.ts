import { ConfigError, MemoryError } from '../errors.ts'
import type { KeptLayer } from '../formats/pruningJson.ts'
import { firstThat, planWithin } from '../memory/budget.ts'
import { countParameters, type TrainingShape } from '../memory/planner.ts'
import { type LayerWidths, type LlamaConfig, prunedWidths } from '../model/config.ts'
import type { Device } from '../tensor/tensor.ts'
import type { RecomputeChoice } from '../train/recompute.ts'
import type { Allocation } from './importance.ts'
import { chooseCounts, type KeptCounts, type LayerImportance, prunedConfig, uniformConfig } from './plan.ts'

/** Parameters that stay or go with a channel, and with a kv head. */
function structureSizes(config: LlamaConfig): KeptCounts {
  const { intermediateSize, numKeyValueHeads, numAttentionHeads } = config
  const group = numAttentionHeads / numKeyValueHeads
  const widths = { intermediateSize, numKeyValueHeads, numAttentionHeads }
  const count = (changed: Partial<typeof widths>) => countParameters({ ...config, layers: [{ ...widths, ...changed }] })
  return {
    channels: count({}) - count({ intermediateSize: intermediateSize - 1 }),
    kvHeads:
      count({}) - count({ numKeyValueHeads: numKeyValueHeads - 1, numAttentionHeads: numAttentionHeads - group }),
  }
}

/**
 * Chooses what each layer of `layers` (half-open) keeps so that the model has at most `targetParams` parameters, and no
 * channel more would fit.
 * @throws {ConfigError} `E_CONFIG`: so few that a layer would lose all, or no fewer than there are
 */
export function chooseWithin(
  config: LlamaConfig,
  targetParams: number,
  layers: readonly [number, number],
  allocation: Allocation,
  importanceOf: (layer: number) => LayerImportance,
): KeptLayer[] {
  const [start, end] = layers
  const sizes = structureSizes(config)
  const all = { channels: config.intermediateSize, kvHeads: config.numKeyValueHeads }
  const parameters = ({ channels, kvHeads }: KeptCounts) => channels * sizes.channels + kvHeads * sizes.kvHeads
  const whole = countParameters(config)
  const fixed = whole - (end - start) * parameters(all)
  const least = fixed + (end - start) * parameters({ channels: 1, kvHeads: 1 })
  if (targetParams < least || targetParams >= whole) throw outOfReach(targetParams, least, whole)
  const budget = targetParams - fixed
  if (allocation === 'uniform') {
    const kvHeads = uniformHeads(config, budget / (end - start), sizes)
    const fill = fillChannels(budget, end - start, kvHeads, sizes, all.channels)
    return chooseCounts(layers, importanceOf, (layer) => ({ kvHeads, channels: fill(layer - start) }))
  }
  const counts = byImportance(budget, layers, sizes, importanceOf)
  return chooseCounts(layers, importanceOf, (layer) => counts[layer - start]!)
}

function outOfReach(targetParams: number, least: number, whole: number): ConfigError {
  return new ConfigError('E_CONFIG', 'pruning these layers does not give that many parameters', {
    field: 'prune.targetParams',
    expected: `${least} to ${whole - 1}: the model has ${whole}, and each layer keeps a channel and a key-value head`,
    found: String(targetParams),
    remedy: 'choose another number, or prune more layers',
  })
}

/** The fewest heads whose share is at least that of the channels they leave room for, as a ratio keeps them. */
function uniformHeads({ intermediateSize, numKeyValueHeads }: LlamaConfig, budget: number, sizes: KeptCounts): number {
  const channels = (heads: number) => (budget - heads * sizes.kvHeads) / sizes.channels
  const possible = Array.from({ length: numKeyValueHeads }, (_, i) => i + 1).filter((heads) => channels(heads) >= 1)
  return possible.find((heads) => heads / numKeyValueHeads >= channels(heads) / intermediateSize) ?? possible.at(-1)!
}

/** As many channels as the heads leave room for; where they do not come out even, the first layers have one more. */
function fillChannels(budget: number, layers: number, kvHeads: number, sizes: KeptCounts, most: number) {
  const total = Math.floor((budget - layers * kvHeads * sizes.kvHeads) / sizes.channels)
  const [each, rest] = [Math.floor(total / layers), total % layers]
  return (index: number) => Math.min(most, each + Number(index < rest))
}

/** Greedily: what gives the most importance a parameter, as long as it fits, after one of each kind in every layer. */
function byImportance(
  budget: number,
  [start, end]: readonly [number, number],
  sizes: KeptCounts,
  importanceOf: (layer: number) => LayerImportance,
): KeptCounts[] {
  const counts = Array.from({ length: end - start }, () => ({ channels: 1, kvHeads: 1 }))
  const candidates = counts.flatMap((_, i) =>
    (['channels', 'kvHeads'] as const).flatMap((kind) => {
      const scores = Float64Array.from(importanceOf(start + i)[kind]).sort()
      return Array.from(scores.subarray(0, -1), (score) => ({ i, kind, density: score / sizes[kind] }))
    }),
  )
  candidates.sort((a, b) => b.density - a.density)
  let left = budget - (end - start) * (sizes.channels + sizes.kvHeads)
  for (const { i, kind } of candidates) {
    if (sizes[kind] > left) continue
    counts[i]![kind]++
    left -= sizes[kind]
  }
  return counts
}

/** The part of the prunable parameters of `layers` that is not in `kept`. */
export function cutRatio(config: LlamaConfig, kept: readonly KeptLayer[]): number {
  const none = kept.map(({ layer }) => ({ layer, channels: [], kvHeads: [] }))
  const whole = countParameters(config)
  return (whole - countParameters(prunedConfig(config, kept))) / (whole - countParameters(prunedConfig(config, none)))
}

const leavesAll = ({ intermediateSize, numKeyValueHeads }: LayerWidths) => intermediateSize > 0 && numKeyValueHeads > 0

/** What a training run takes, besides the model. */
export interface TrainingBudget {
  shape: TrainingShape
  choice: RecomputeChoice
  bytes: number
}

/**
 * The smallest pruning ratio, in hundredths, with which training fits `bytes`, recomputing as much as that needs.
 * @throws {MemoryError} `E_MEMORY`: it does not fit with any; the message has the figures of the largest
 */
export function ratioWithin(
  config: LlamaConfig,
  layers: readonly [number, number],
  { shape, choice, bytes }: TrainingBudget,
  device: Device,
): number {
  const ratios = Array.from({ length: 100 }, (_, i) => i / 100).filter((ratio) =>
    leavesAll(prunedWidths(config, ratio, ratio)),
  )
  const plan = (ratio: number) => planWithin(uniformConfig(config, ratio, layers), shape, choice, bytes, device)
  const fits = (ratio: number) => {
    try {
      return Boolean(plan(ratio))
    } catch (error) {
      if (error instanceof MemoryError) return false
      throw error
    }
  }
  const ratio = firstThat(ratios, fits)
  plan(ratio) // refuses the largest, where not even that fits
  return ratio
}
