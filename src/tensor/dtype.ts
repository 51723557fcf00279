import { OpError } from '../errors.ts'

/** Element types of tensors, named as in the native code. */
export type DType = 'f32' | 'bf16' | 'f16' | 'u8' | 'i32' | 'i64'

export const bytesPerElement: Record<DType, number> = { f32: 4, bf16: 2, f16: 2, u8: 1, i32: 4, i64: 8 }

/** The order the native enum uses (`native/core/dtype.h`). */
export const dtypes: readonly DType[] = ['f32', 'bf16', 'f16', 'u8', 'i32', 'i64']

/** `maxRank` of `native/core/tensor.h`. */
const mostDimensions = 4

/** @throws {OpError} `E_OP`: no tensor has this shape or dtype. */
export function expectShape(op: string, shape: readonly number[], dtype: DType): void {
  let isShape = shape.length <= mostDimensions && dtypes.includes(dtype)
  for (const size of shape) isShape &&= isCount(size)
  if (isShape) return
  throw new OpError('E_OP', `${op}: no tensor has this shape or dtype`, {
    expected: `at most ${mostDimensions} whole numbers of 0 or more, and ${dtypes.join(', ')}`,
    found: `[${shape.join(', ')}] ${dtype}`,
  })
}

export const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0

/** Number of elements of a shape; a scalar has the shape `[]` and one element. */
export function elements(shape: readonly number[]): number {
  let count = 1
  for (const size of shape) count *= size
  return count
}
