import type { DType } from '../../src/tensor/dtype.ts'
import type { Device } from '../../src/tensor/tensor.ts'
import { storing, unitRoundoff } from './support.ts'

export interface Operand {
  data: ArrayLike<number>
  transposed?: boolean
}

/**
 * What adding up a product may cost on a device, relative to the sum of magnitudes. Tensor cores cut off where fp32 rounds,
 * several terms at once: four times as much.
 */
export const adding = ({ activations }: Device, terms: number): number =>
  (activations === 'bf16' ? 4 : 1) * terms * unitRoundoff.f32

/** What it costs to hand f32 values to the tensor cores, which take bf16. */
export const narrowing = ({ activations }: Device, ...dtypes: string[]): number =>
  dtypes.filter((dtype) => dtype === 'f32').length * storing(activations)

/**
 * alpha * op(a) * op(b) + beta * c in doubles, with the error that a device may make: every element is a sum of K products,
 * in whatever order, and then two products and an addition; each rounds relative to the `magnitude`, the same sum of
 * absolute values (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1).
 */
export function productInDoubles(
  [M, N, K]: [number, number, number],
  a: Operand,
  b: Operand,
  { alpha = 1, beta = 0, c }: { alpha?: number; beta?: number; c?: ArrayLike<number> } = {},
): {
  want: Float64Array
  magnitude: Float64Array
  /** The bound for operands of these dtypes, rounded `rounded` times more on their way, and a result that is stored as `as`. */
  bound: (
    device: Device,
    operands: readonly string[],
    as: DType,
    rounded?: number,
  ) => (want: number, index: number) => number
} {
  const want = new Float64Array(M * N)
  const magnitude = new Float64Array(M * N)
  for (let i = 0; i < M; i++) {
    for (let j = 0; j < N; j++) {
      let sum = 0
      let absolute = 0
      for (let k = 0; k < K; k++) {
        const left = a.transposed ? a.data[k * M + i]! : a.data[i * K + k]!
        const right = b.transposed ? b.data[j * K + k]! : b.data[k * N + j]!
        sum += left * right
        absolute += Math.abs(left * right)
      }
      const before = beta === 0 ? 0 : beta * c![i * N + j]!
      want[i * N + j] = alpha * sum + before
      magnitude[i * N + j] = Math.abs(alpha) * absolute + Math.abs(before)
    }
  }
  return {
    want,
    magnitude,
    bound: (device, operands, as, rounded = 0) => {
      const relative = adding(device, K + 3) + narrowing(device, ...operands) + rounded * storing(device.activations)
      return (value, index) => relative * magnitude[index]! + storing(as) * Math.abs(value)
    },
  }
}
