import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

export interface GemmOptions {
  /** `a` is stored as [K, M]. Default false. */
  transposeA?: boolean
  /** `b` is stored as [N, K], as the weight of a linear layer is. Default false. */
  transposeB?: boolean
  /** Default 1. */
  alpha?: number
  /** 0 (the default) overwrites `c` without reading it. */
  beta?: number
}

/**
 * Matrix product `c = alpha * op(a) * op(b) + beta * c`, summed in f32: `a` [M, K], `b` [K, N] f32 or bf16, `c` [M, N],
 * each of its own dtype, with `a` or `b` stored the other way round where `options` say so. `c` must not overlap `a` or `b`.
 * @throws {OpError} `E_OP`: the shapes or dtypes do not fit.
 */
export function gemm(a: Tensor, b: Tensor, c: Tensor, options: GemmOptions = {}): void {
  const { transposeA = false, transposeB = false, alpha = 1, beta = 0 } = options
  match('gemm', {
    a: [a, transposeA ? 'K M' : 'M K', 'float'],
    b: [b, transposeB ? 'N K' : 'K N', 'f32 bf16'],
    c: [c, 'M N', 'float'],
  })
  call('gemm', a, b, c, transposeA, transposeB, alpha, beta)
}
