import type { DType } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

const floats = 'f32 bf16 f16'

/** A copy of `x`, of any shape, in another floating-point dtype or its own, rounded to nearest even. */
export function cast(x: Tensor, dtype: DType): Tensor {
  const y = x.device.empty(x.shape, dtype)
  copyInto(x, y)
  return y
}

/** Overwrites `y` with the values of `x`, of the same shape, rounded to nearest even where the dtypes differ. */
export function copyInto(x: Tensor, y: Tensor): void {
  const dimensions = dimensionsOf(x)
  match('cast', { x: [x, dimensions, floats], y: [y, dimensions, floats] })
  call('cast', x, y)
}

/** How many values of `x`, of any shape, are NaN or infinite, and the flat index of the first, -1 when none is. Waits for the device. */
export function countNonFinite(x: Tensor): { count: number; first: number } {
  match('countNonFinite', { x: [x, dimensionsOf(x), floats] })
  const found = x.device.empty([2], 'i64')
  call('countNonFinite', x, found)
  const [count, first] = found.read()
  found.dispose()
  return { count: Number(count), first: Number(first) }
}

const dimensionsOf = (x: Tensor): string => x.shape.map((_, i) => `d${i}`).join(' ')
