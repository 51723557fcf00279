import type { Tensor } from '../../src/tensor/tensor.ts'
import { toArray } from './support.ts'

// What Hopper's kernels take, whole and with the depth in parts of 2, 4 and 8, and few rows; of the results a sample is
// compared.
export const large = [
  [700, 1000, 300],
  [1300, 260, 1100],
  [300, 1100, 2302],
  [1000, 256, 4300],
  [2100, 256, 4300],
  [260, 520, 4301],
  [48, 5700, 520],
] as const
export const sample = (count: number) => Array.from({ length: 12 }, (_, i) => Math.floor((i * (count - 1)) / 11))

/** Elements of a matrix, row by row. */
export function part(matrix: Tensor, rows: number[], columns: number[]): Float64Array {
  const values = toArray(matrix)
  return Float64Array.from(rows.flatMap((row) => columns.map((column) => values[row * matrix.shape[1]! + column]!)))
}
const all = (count: number) => Array.from({ length: count }, (_, i) => i)
export const rowsOf = (matrix: Tensor, rows: number[]) => part(matrix, rows, all(matrix.shape[1]!))
export const columnsOf = (matrix: Tensor, columns: number[]) => part(matrix, all(matrix.shape[0]!), columns)
