/** Element types of tensors, named as in the native code. */
export type DType = 'f32' | 'bf16' | 'f16' | 'u8' | 'i32' | 'i64'

export const bytesPerElement: Record<DType, number> = { f32: 4, bf16: 2, f16: 2, u8: 1, i32: 4, i64: 8 }

/** The order the native enum uses (`native/core/dtype.h`). */
export const dtypes: readonly DType[] = ['f32', 'bf16', 'f16', 'u8', 'i32', 'i64']

/** Number of elements of a shape; a scalar has the shape `[]` and one element. */
export function elements(shape: readonly number[]): number {
  let count = 1
  for (const size of shape) count *= size
  return count
}
