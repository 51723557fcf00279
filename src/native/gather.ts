import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/** Rows `indices` [n] i32 of `x` [rows, columns] of any dtype, in that order: [n, columns], in `into` where it is given. */
export function gatherRows(x: Tensor, indices: Tensor, into?: Tensor): Tensor {
  const { n, columns } = match('gatherRows', { x: [x, 'rows columns', x.dtype], indices: [indices, 'n', 'i32'] })
  if (into) match('gatherRows', { into: [into, `${n} ${columns}`, x.dtype] })
  const y = into ?? x.device.empty([n, columns], x.dtype)
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

/** Columns `indices` [n] i32 of `x` [rows, columns] of any dtype, in that order: [rows, n], in `into` where it is given. */
export function gatherColumns(x: Tensor, indices: Tensor, into?: Tensor): Tensor {
  const { rows, n } = match('gatherColumns', { x: [x, 'rows columns', x.dtype], indices: [indices, 'n', 'i32'] })
  if (into) match('gatherColumns', { into: [into, `${rows} ${n}`, x.dtype] })
  const y = into ?? x.device.empty([rows, n], x.dtype)
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
