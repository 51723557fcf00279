/**
 * What a pruning method may go by, its default first. `structured` and `random` cut channels and heads, so that the model
 * gets smaller; `semi-structured` and `unstructured` set single weights to zero.
 *
 * - `taylor`, `taylor-second`: |w * dL/dw| on calibration text, or its square summed over examples (LLM-Pruner's
 *   `param_first` and `param_second`, arXiv 2305.11627)
 * - `sparsegpt`: what changes the outputs least, the other weights adjusted to it (arXiv 2301.00774)
 * - `wanda`: |w| times the norm of its input (arXiv 2306.11695)
 * - `magnitude`: |w|
 */
export const criteriaOf = {
  structured: ['taylor', 'taylor-second', 'magnitude'],
  random: [],
  'semi-structured': ['sparsegpt', 'wanda', 'magnitude'],
  unstructured: ['sparsegpt', 'wanda', 'magnitude'],
} as const

export type PruneMethod = keyof typeof criteriaOf
export type Criterion = (typeof criteriaOf)[PruneMethod][number]

export const pruneMethods = Object.keys(criteriaOf) as [PruneMethod, ...PruneMethod[]]
export const criteria = [...new Set<Criterion>(Object.values(criteriaOf).flat())] as const

export const cutsStructures = (method: PruneMethod): method is 'structured' | 'random' =>
  method === 'structured' || method === 'random'

/** What `method` goes by where nothing is said; `random` goes by nothing. */
export const defaultCriterion = (method: PruneMethod): Criterion | undefined => criteriaOf[method][0]

/** Whether `criterion` is measured on calibration text. */
export const needsText = (criterion: Criterion | undefined): boolean =>
  criterion !== undefined && criterion !== 'magnitude'

/** What goes where nothing is said, as in the paper. */
export const defaultRatios: Record<PruneMethod, number> = {
  structured: 0.65,
  random: 0.65,
  'semi-structured': 0.5,
  unstructured: 0.55,
}
