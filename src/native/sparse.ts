import { OpError } from '../errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/**
 * Cuts, in every run of `m` columns of a row of `w` [rows, columns], the `n` weights with the least `|w| * scale`: they
 * become 0. Of equal ones those on the left go. In host memory.
 * @param m divides `columns`
 * @param scale [columns]; without it `|w|` alone counts
 * @throws {OpError} `E_OP`: the shapes do not fit, or `m` does not
 */
export function cutLeast(w: Tensor, n: number, m: number, scale?: Tensor): void {
  match('cutLeast', { w: [w, 'rows columns', 'f32'], ...(scale && { scale: [scale, 'columns', 'f32'] as const }) })
  expectGroups('cutLeast', n, m, w.shape[1]!)
  call('cutLeast', w, scale, n, m)
}

/**
 * The upper triangular U [n, n] with `(h + damping * mean(diagonal) * I)^-1 = U^T U`, of the symmetric `h` [n, n]. A 0 on
 * its diagonal, of an input that is always 0, counts as 1. In host memory, about n^2 / 3 values beside the result.
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
 * @param cut `m` divides `columns` and is at most 32; the share is less than 1
 * @param blockSize columns that are cut before what lies right of them is changed; a multiple of `m`
 * @throws {OpError} `E_OP`: the shapes do not fit, or the cut does not
 */
export function sparseGpt(w: Tensor, h: Tensor, u: Tensor, cut: SparseGptCut, blockSize = 128): void {
  match('sparseGpt', {
    w: [w, 'rows columns', 'f32'],
    h: [h, 'columns columns', 'f32'],
    u: [u, 'columns columns', 'f32'],
  })
  const { n, m, ratio } = { n: 0, m: 0, ratio: 0, ...cut }
  if ('m' in cut) expectGroups('sparseGpt', n, m, w.shape[1]!, 32)
  expectThat('sparseGpt', ratio >= 0 && ratio < 1, 'a share from 0 and below 1', ratio)
  const isBlock = Number.isInteger(blockSize) && blockSize > 0 && blockSize % Math.max(m, 1) === 0
  expectThat('sparseGpt', isBlock, 'a block of a multiple of m columns', blockSize)
  call('sparseGpt', w, h, u, n, m, ratio, blockSize)
}

function expectGroups(op: string, n: number, m: number, columns: number, most = columns): void {
  const isGroup = Number.isInteger(n) && Number.isInteger(m) && n >= 0 && n <= m && m > 0 && m <= most
  expectThat(
    op,
    isGroup && columns % m === 0,
    `n of m, where m is at most ${most} and divides ${columns}`,
    `${n} of ${m}`,
  )
}

function expectThat(op: string, holds: boolean, expected: string, found: number | string): void {
  if (!holds) throw new OpError('E_OP', `${op} cannot cut so`, { expected, found: String(found) })
}
