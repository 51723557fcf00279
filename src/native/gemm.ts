import { OpError } from '../errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/** LoRA's part of a product, which rides along: adds `left * right` to it, with `right` lying as the product's own. */
export interface LowRank {
  /** [M, r], dtype of the product's left operand */
  left: Tensor
  /** [r, N], or [N, r] where the product's own right operand is transposed; float */
  right: Tensor
}

export interface GemmOptions {
  /** `a` is stored as [K, M]. Default false. */
  transposeA?: boolean
  /** `b` is stored as [N, K], as the weight of a linear layer is. Default false. */
  transposeB?: boolean
  /** Default 1. */
  alpha?: number
  /** 0 (the default) overwrites `c` without reading it. */
  beta?: number
  /** Not where `a` is transposed. */
  lowRank?: LowRank | undefined
}

/**
 * Matrix product `c = alpha * op(a) * op(b) + beta * c`, summed in f32: `a` [M, K], `b` [K, N] f32 or bf16, `c` [M, N],
 * each of its own dtype, with `a` or `b` stored the other way round where `options` say so. `c` must not overlap `a` or `b`.
 * @throws {OpError} `E_OP`: the shapes, dtypes or options do not fit.
 */
export function gemm(a: Tensor, b: Tensor, c: Tensor, options: GemmOptions = {}): void {
  const { transposeA = false, transposeB = false, alpha = 1, beta = 0, lowRank } = options
  if (transposeA && lowRank) {
    throw new OpError('E_OP', 'gemm: a low-rank part rides along only where a is not transposed', {
      field: 'transposeA',
      expected: 'false with lowRank',
      found: 'true',
    })
  }
  match('gemm', {
    a: [a, transposeA ? 'K M' : 'M K', 'float', 'strided'],
    b: [b, transposeB ? 'N K' : 'K N', 'f32 bf16', 'strided'],
    c: [c, 'M N', 'float', 'strided'],
    ...lowRankParts(lowRank, a, transposeB ? 'N r' : 'r N'),
  })
  call('gemm', a, b, c, transposeA, transposeB, alpha, beta, lowRank?.left, lowRank?.right)
}

/** What the parts of a low-rank product must be, for `match`; `right` names the dimensions of the right one. */
export function lowRankParts(lowRank: LowRank | undefined, like: Tensor, right: string | readonly (string | number)[]) {
  if (!lowRank) return {}
  return {
    left: [lowRank.left, 'M r', like.dtype, 'strided'],
    right: [lowRank.right, right, 'float', 'strided'],
  } as const
}
