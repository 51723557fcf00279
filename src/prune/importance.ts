import type { Layer } from '../model/block.ts'
import type { Projection } from '../model/model.ts'
import { importance } from '../native/importance.ts'
import { Tensor, zeros } from '../tensor/tensor.ts'
import type { Dimensions, LayerImportance } from './plan.ts'

/**
 * Whose score a query head's weights add to. `aligned`: the kv head that it reads, and that is cut together with it.
 * `llm-pruner`: kv head `i mod nkv` for query head `i`, as that program does; for reproducing its masks.
 */
export const groupings = ['aligned', 'llm-pruner'] as const
export type Grouping = (typeof groupings)[number]

/** Who shares a budget of parameters: all layers alike, or the structures of all layers by what they give for their size. */
export const allocations = ['uniform', 'importance'] as const
export type Allocation = (typeof allocations)[number]

/** What the weights of a layer add to the scores of its structures. */
export interface WeightScore {
  grouping: Grouping
  /** The square instead of the absolute value. */
  squared?: boolean
  /** The gradient of a projection's weight, f32, of the same shape. */
  gradOf?: (projection: Projection) => Tensor | undefined
}

/**
 * Scores of one layer's structures: the sum over their weights of |w|, or of |w * dL/dw| with gradients ("param_first" of
 * LLM-Pruner, arXiv 2305.11627; squared, one example of its "param_second").
 */
export function layerImportance(
  layer: Layer,
  source: Dimensions,
  { grouping, squared = false, gradOf = () => undefined }: WeightScore,
): LayerImportance {
  const { numAttentionHeads, numKeyValueHeads, headDim } = source
  const sums = (projection: Projection, side: 'out' | 'in'): Float32Array => {
    const { weight } = layer[projection]
    if (!(weight instanceof Tensor)) throw new Error('importance is measured on unquantised weights')
    const total = zeros(weight.device, [weight.shape[side === 'out' ? 0 : 1]!], 'f32')
    const grad = gradOf(projection)
    importance(weight, {
      squared,
      ...(grad && { grad }),
      ...(side === 'out' ? { rowSums: total } : { columnSums: total }),
    })
    return total.read() as Float32Array
  }
  const add = (...parts: Float32Array[]) => parts[0]!.map((_, i) => parts.reduce((sum, part) => sum + part[i]!, 0))
  const perHead = (scores: Float32Array, heads: number) =>
    Float32Array.from({ length: heads }, (_, h) =>
      scores.subarray(h * headDim, (h + 1) * headDim).reduce((sum, score) => sum + score, 0),
    )

  const kvHeads = perHead(add(sums('k', 'out'), sums('v', 'out')), numKeyValueHeads)
  const queryHeads = perHead(add(sums('q', 'out'), sums('o', 'in')), numAttentionHeads)
  const group = numAttentionHeads / numKeyValueHeads
  queryHeads.forEach((score, head) => {
    kvHeads[grouping === 'aligned' ? Math.floor(head / group) : head % numKeyValueHeads]! += score
  })
  return { channels: add(sums('gate', 'out'), sums('up', 'out'), sums('down', 'in')), kvHeads }
}
