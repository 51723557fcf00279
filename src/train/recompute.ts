import { ConfigError } from '../errors.ts'
import type { Device } from '../tensor/tensor.ts'

/**
 * What a layer makes again in backward: `none` nothing; `cheap` what takes one pass over memory, the outputs of its norms and
 * SwiGLU's product; `full` everything, from its input.
 */
export const recomputes = ['none', 'cheap', 'full'] as const
export type Recompute = (typeof recomputes)[number]

/**
 * How many layers have each setting, in their order: first those with `full`, then `cheap`, then `none`. The last layers keep
 * most because backward begins with them. The inputs of the first `offloaded` layers wait in host memory.
 */
export type RecomputePlan = Readonly<Record<Recompute | 'offloaded', number>>

/** `auto` decides for every layer by the memory there is. */
export const recomputeChoices = ['auto', ...recomputes] as const

export interface RecomputeChoice {
  recompute: (typeof recomputeChoices)[number]
  /** Inputs of layers with `full` in host memory: always, never, or where the memory needs it. */
  offload?: boolean | undefined
}

export const recomputeOf = ({ full, cheap }: RecomputePlan, layer: number): Recompute =>
  layer < full ? 'full' : layer < full + cheap ? 'cheap' : 'none'

/** One setting for all of `layers` layers. */
export const uniform = (recompute: Recompute, layers: number): RecomputePlan => ({
  ...{ none: 0, cheap: 0, full: 0, offloaded: 0 },
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

/** "full for 12 layers (10 offloaded), cheap for 68" */
export function describeRecompute({ offloaded, ...counts }: RecomputePlan): string {
  const used = recomputes.filter((recompute) => counts[recompute] > 0).reverse()
  const describe = (recompute: Recompute) =>
    `${recompute} for ${counts[recompute]} layers${recompute === 'full' && offloaded > 0 ? ` (${offloaded} offloaded)` : ''}`
  return used.length === 1 && offloaded === 0 ? used[0]! : used.map(describe).join(', ')
}
