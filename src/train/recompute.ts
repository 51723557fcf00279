import { ConfigError } from '../errors.ts'
import type { LlamaConfig } from '../model/config.ts'
import type { Device } from '../tensor/tensor.ts'

/**
 * What a layer makes again in backward: `none` nothing; `cheap` what takes one pass over memory, the outputs of its norms and
 * SwiGLU's product; `full` everything, from its input.
 */
export const recomputes = ['none', 'cheap', 'full'] as const
export type Recompute = (typeof recomputes)[number]

/**
 * How many layers have each setting, in their order: first those with `full`, then `cheap`, then `none`. The last layers keep
 * most because backward begins with them. The inputs of the first `offloaded` layers wait in host memory, and of
 * `offloadedOutputs` layers with `full` what q, k, v, gate and up made, which then is not made again.
 */
export type RecomputePlan = Readonly<Record<Recompute | 'offloaded' | 'offloadedOutputs', number>>

/** `auto` decides for every layer by the memory there is. */
export const recomputeChoices = ['auto', ...recomputes] as const

export interface RecomputeChoice {
  recompute: (typeof recomputeChoices)[number]
  /** Inputs of layers with `full` in host memory: always, never, or where the memory needs it; then outputs as well. */
  offload?: boolean | undefined
}

export const recomputeOf = ({ full, cheap }: RecomputePlan, layer: number): Recompute =>
  layer < full ? 'full' : layer < full + cheap ? 'cheap' : 'none'

/** One setting for all of `layers` layers. */
export const uniform = (recompute: Recompute, layers: number): RecomputePlan => ({
  ...{ none: 0, cheap: 0, full: 0, offloaded: 0, offloadedOutputs: 0 },
  [recompute]: layers,
})

/**
 * The plans that a choice leaves for `layers` layers, from the fastest to that of the least memory: each takes one step more
 * in one layer more than the plan before.
 * @throws {ConfigError} `E_CONFIG`: `offload` where there is no GPU, or where no layer has `full`
 */
export function recomputePlans(
  { recompute, offload }: RecomputeChoice,
  layers: number,
  { activations }: Device,
): RecomputePlan[] {
  const onGpu = activations === 'bf16'
  if (offload && !onGpu) throw unusable('the memory of a GPU', 'the CPU')
  if (offload && recompute !== 'auto' && recompute !== 'full') throw unusable('recompute auto or full', recompute)
  const upTo = (last: number, plan: (count: number) => RecomputePlan) =>
    Array.from({ length: last }, (_, i) => plan(i + 1))
  const full = uniform('full', layers)
  const offloaded = offload === false || !onGpu ? [] : upTo(layers - 1, (count) => ({ ...full, offloaded: count }))
  if (offload) return [offloaded.at(-1) ?? full]
  if (recompute === 'full') return [full, ...offloaded]
  if (recompute !== 'auto') return [uniform(recompute, layers)]
  const none = uniform('none', layers)
  const cheap = uniform('cheap', layers)
  return [
    none,
    ...upTo(layers, (count) => ({ ...none, none: layers - count, cheap: count })),
    ...upTo(layers, (count) => ({ ...cheap, cheap: layers - count, full: count })),
    ...offloaded,
  ]
}

const unusable = (expected: string, found: string) =>
  new ConfigError('E_CONFIG', 'there is nothing to offload', { field: 'offload', expected, found })

/** Columns of what q, k, v, gate and up of a layer make. */
export function outputWidths(
  { headDim, layers }: LlamaConfig,
  layer: number,
): [number, number, number, number, number] {
  const { numAttentionHeads, numKeyValueHeads, intermediateSize } = layers[layer]!
  const keys = numKeyValueHeads * headDim
  return [numAttentionHeads * headDim, keys, keys, intermediateSize, intermediateSize]
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0)

/** The layers with `full` whose outputs may be offloaded: those of the most common widths, which share slots of one size. */
function alikeLayers(config: LlamaConfig, { full }: RecomputePlan): number[] {
  const sizes = config.layers.map((_, layer) => sum(outputWidths(config, layer)))
  const count = (size: number) => sizes.filter((other) => other === size).length
  const common = sizes.reduce((best, size) => (count(size) > count(best) ? size : best))
  return Array.from({ length: full }, (_, i) => i).filter((i) => sizes[i] === common)
}

/** The layers whose outputs a plan offloads, in their order: spread evenly, so that the copies keep pace. */
export function sendingLayers(config: LlamaConfig, plan: RecomputePlan): number[] {
  if (plan.offloadedOutputs === 0) return []
  const alike = alikeLayers(config, plan)
  const before = (i: number) => Math.floor((i * plan.offloadedOutputs) / alike.length)
  return alike.filter((_, i) => before(i + 1) > before(i))
}

/**
 * What a forward pass does in the time that a byte takes to the host: 5,500 multiply-adds of its products; and bytes that take
 * as long as the passes over a hidden state do for each of its values. Measured on an H200 behind PCIe 5; GPUs with slower
 * links compute more slowly as well.
 */
const productsPerByte = 5500
const bytesPerHidden = 1.5

/**
 * `plan` with as many offloaded outputs as its forward pass has time to copy, at most a `share` of the layers. A copy has the
 * time until its slot is needed again: with one slot that is less, so one is enough for a third of the layers.
 * @returns nothing where that is none
 */
export function withOffloadedOutputs(config: LlamaConfig, plan: RecomputePlan, share: number): RecomputePlan[] {
  const alike = alikeLayers(config, plan)
  if (alike.length === 0) return []
  const widths = outputWidths(config, alike[0]!)
  const outputs = sum(widths)
  // Of all projections: o reads what q makes, down what gate makes
  const products = config.hiddenSize * (outputs + widths[0] + widths[3])
  const inputs = plan.offloaded > 0 ? config.hiddenSize : 0
  const time = products / productsPerByte + bytesPerHidden * config.hiddenSize
  const inTime = (time - 2 * inputs) / (2 * outputs)
  const offloadedOutputs = Math.floor(alike.length * Math.min(share, inTime))
  return offloadedOutputs > 0 ? [{ ...plan, offloadedOutputs }] : []
}

/** What a plan costs, in forward passes of a layer. */
export const recomputeCost = ({ cheap, full, offloadedOutputs }: RecomputePlan): number =>
  full - 0.7 * offloadedOutputs + 0.06 * cheap

/** "full for 12 layers (10 offloaded, outputs of 6 offloaded), cheap for 68 layers" */
export function describeRecompute({ offloaded, offloadedOutputs, ...counts }: RecomputePlan): string {
  const used = recomputes.filter((recompute) => counts[recompute] > 0).reverse()
  const host = [
    ...(offloaded > 0 ? [`${offloaded} offloaded`] : []),
    ...(offloadedOutputs > 0 ? [`outputs of ${offloadedOutputs} offloaded`] : []),
  ].join(', ')
  const describe = (recompute: Recompute) =>
    `${recompute} for ${counts[recompute]} layers${recompute === 'full' && host ? ` (${host})` : ''}`
  return used.length === 1 && !host ? used[0]! : used.map(describe).join(', ')
}
