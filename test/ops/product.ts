import { unitRoundoff } from './support.ts'

export interface Operand {
  data: ArrayLike<number>
  transposed?: boolean
}

/**
 * alpha * op(a) * op(b) + beta * c in doubles, with the error that fp32 may make: every element is a sum of K products, in
 * whatever order, and then two products and an addition; each rounds relative to the `magnitude`, the same sum of
 * absolute values (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1).
 */
export function productInDoubles(
  [M, N, K]: [number, number, number],
  a: Operand,
  b: Operand,
  { alpha = 1, beta = 0, c }: { alpha?: number; beta?: number; c?: ArrayLike<number> } = {},
): { want: Float64Array; magnitude: Float64Array; bound: (want: number, index: number) => number } {
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
  return { want, magnitude, bound: (_, index) => (K + 3) * unitRoundoff.f32 * magnitude[index]! }
}
