import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

export interface LoraLinearOptions {
  /** alpha / rank, or alpha / sqrt(rank) for rsLoRA. */
  scale: number
  /** Probability of dropping an element of `x` on its way into the adapter, in [0, 1). Default 0. */
  dropout?: number
  /** Seed and stream of the dropout mask: the same two numbers make the same mask again. Integers. Default 0. */
  seed?: number
  stream?: number
}

/**
 * LoRA's part of a linear layer (arXiv 2106.09685), `u = scale * drop(x) a^T` and `y += u b^T`: `x` [T, K],
 * `a` [r, K] and `b` [N, r] float, `y` [T, N] like `x`. Returns `u` [T, r], which backward needs. Without `y` that is all: give `u` to
 * the product with the weight as its {@link LowRank} part, which is faster.
 * @throws {OpError} `E_OP`: the shapes or dtypes do not fit.
 */
export function loraForward(
  x: Tensor,
  a: Tensor,
  b: Tensor,
  y: Tensor | undefined,
  options: LoraLinearOptions,
): Tensor {
  const { scale, dropout = 0, seed = 0, stream = 0 } = options
  match('loraForward', {
    x: [x, 'T K', 'float'],
    a: [a, 'r K', 'float'],
    b: [b, 'N r', 'float'],
    ...(y && { y: [y, 'T N', x.dtype] as const }),
  })
  const u = x.device.empty([x.shape[0]!, a.shape[0]!], x.dtype)
  call('loraForward', x, a, b, u, y, scale, dropout, seed, stream)
  return u
}

/**
 * Backward of {@link loraForward} with its mask: from `dy` [T, N] and forward's `u` adds d loss / d of `x` to `dx` [T, K],
 * of `a` to `da` [r, K] and of `b` to `db` [N, r]. Returns `d` = scale * dy * b [T, r]. Where there is no dropout `dx` can
 * be left out: give `d` to the product of `dy` with the weight as its {@link LowRank} part, together with `a`.
 * @param options those of forward
 * @throws {OpError} `E_OP`: the shapes or dtypes do not fit.
 */
export function loraBackward(
  x: Tensor,
  a: Tensor,
  b: Tensor,
  u: Tensor,
  dy: Tensor,
  dx: Tensor | undefined,
  da: Tensor,
  db: Tensor,
  options: LoraLinearOptions,
): Tensor {
  const { scale, dropout = 0, seed = 0, stream = 0 } = options
  match('loraBackward', {
    x: [x, 'T K', 'float'],
    a: [a, 'r K', 'float'],
    b: [b, 'N r', 'float'],
    u: [u, 'T r', x.dtype],
    dy: [dy, 'T N', x.dtype],
    ...(dx && { dx: [dx, 'T K', x.dtype] as const }),
    da: [da, 'r K', 'f32'],
    db: [db, 'N r', 'f32'],
  })
  const d = x.device.empty([x.shape[0]!, a.shape[0]!], x.dtype)
  call('loraBackward', x, a, b, u, dy, dx, da, db, d, scale, dropout, seed, stream)
  return d
}
