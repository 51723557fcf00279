import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/**
 * Cuts, in every run of `m` columns of a row of `w` [rows, columns], the `n` weights with the least `|w| * scale`: they
 * become 0. Of equal ones those on the left go. `columns` is a multiple of `m`. In host memory.
 * @param scale [columns]; without it `|w|` alone counts
 */
export function cutLeast(w: Tensor, n: number, m: number, scale?: Tensor): void {
  match('cutLeast', { w: [w, 'rows columns', 'f32'], ...(scale && { scale: [scale, 'columns', 'f32'] as const }) })
  call('cutLeast', w, scale, n, m)
}

/**
 * The upper triangular U [n, n] with `(h + damping * mean(diagonal) * I)^-1 = U^T U`, of the symmetric `h` [n, n]. A 0 on
 * its diagonal, of an input that is always 0, counts as 1. In host memory, n^2 / 3 values beside the result.
 * @returns `undefined` where the damped matrix is not positive definite
 */
export function inverseFactor(h: Tensor, damping: number): Tensor | undefined {
  const { n } = match('inverseFactor', { h: [h, 'n n', 'f32'] })
  const u = h.device.empty([n, n], 'f32')
  const succeeded = h.device.empty([1], 'i32')
  call('inverseFactor', h, u, succeeded, damping)
  if (succeeded.item() === 1) return u
  u.dispose()
  return undefined
}

/** What SparseGPT cuts: `n` of every `m` neighbours in a row, or the share `ratio` of a block of columns. */
export type SparseGptCut = { n: number; m: number } | { ratio: number }

/**
 * SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774): cuts weights of `w` [rows, columns] and changes those on their
 * right so that the output changes least for the inputs that `h` = 2 X^T X [columns, columns] was measured on. Weights of
 * inputs that are always 0 become 0. In host memory.
 * @param u {@link inverseFactor} of `h`
 * @param blockSize columns that are cut before what lies right of them is changed; a multiple of `m`
 */
export function sparseGpt(w: Tensor, h: Tensor, u: Tensor, cut: SparseGptCut, blockSize = 128): void {
  match('sparseGpt', {
    w: [w, 'rows columns', 'f32'],
    h: [h, 'columns columns', 'f32'],
    u: [u, 'columns columns', 'f32'],
  })
  const { n, m, ratio } = { n: 0, m: 0, ratio: 0, ...cut }
  call('sparseGpt', w, h, u, n, m, ratio, blockSize)
}
