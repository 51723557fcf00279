import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/** Rows `indices` [n] i32 of `x` [rows, columns] of any dtype, in that order: [n, columns]. */
export function gatherRows(x: Tensor, indices: Tensor): Tensor {
  const { n, columns } = match('gatherRows', { x: [x, 'rows columns', x.dtype], indices: [indices, 'n', 'i32'] })
  const y = x.device.empty([n, columns], x.dtype)
  call('gatherRows', x, indices, y)
  return y
}

/** Writes `x` [n, columns] to the rows `indices` [n] i32, all distinct, of `y` [rows, columns]; other rows stay. */
export function scatterRows(x: Tensor, indices: Tensor, y: Tensor): void {
  match('scatterRows', {
    x: [x, 'n columns', y.dtype],
    indices: [indices, 'n', 'i32'],
    y: [y, 'rows columns', y.dtype],
  })
  call('scatterRows', x, indices, y)
}

/** Columns `indices` [n] i32 of `x` [rows, columns] of any dtype, in that order: [rows, n]. */
export function gatherColumns(x: Tensor, indices: Tensor): Tensor {
  const { rows, n } = match('gatherColumns', { x: [x, 'rows columns', x.dtype], indices: [indices, 'n', 'i32'] })
  const y = x.device.empty([rows, n], x.dtype)
  call('gatherColumns', x, indices, y)
  return y
}

/** Writes `x` [rows, n] to the columns `indices` [n] i32, all distinct, of `y` [rows, columns]; other columns stay. */
export function scatterColumns(x: Tensor, indices: Tensor, y: Tensor): void {
  match('scatterColumns', {
    x: [x, 'rows n', y.dtype],
    indices: [indices, 'n', 'i32'],
    y: [y, 'rows columns', y.dtype],
  })
  call('scatterColumns', x, indices, y)
}
