import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/**
 * Adds up how much the weights `w` [rows, columns], f32 or bf16, matter: `|w * grad|` each, the first-order change of the
 * loss (LLM-Pruner, arXiv 2305.11627), or `|w|` without `grad` [rows, columns]; with `squared` the squares of these. `rowSums`
 * [rows] and `columnSums` [columns] are added to, so that the projections of a group share one.
 */
export function importance(
  w: Tensor,
  options: { grad?: Tensor; rowSums?: Tensor; columnSums?: Tensor; squared?: boolean },
): void {
  const { grad, rowSums, columnSums, squared = false } = options
  match('importance', {
    w: [w, 'rows columns', 'f32 bf16'],
    ...(grad && { grad: [grad, 'rows columns', 'f32'] as const }),
    ...(rowSums && { rowSums: [rowSums, 'rows', 'f32'] as const }),
    ...(columnSums && { columnSums: [columnSums, 'columns', 'f32'] as const }),
  })
  call('importance', w, grad, rowSums, columnSums, squared)
}
