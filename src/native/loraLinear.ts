import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

export interface LoraDropout {
  /** Probability of dropping an element of `x` on its way into the adapter, in [0, 1). Default 0. */
  dropout?: number
  /** Seed and stream of the dropout mask: the same two numbers make the same mask again. Integers. Default 0. */
  seed?: number
  stream?: number
}

export interface LoraLinearOptions extends LoraDropout {
  /** alpha / rank, or alpha / sqrt(rank) for rsLoRA. */
  scale: number
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
 * Backward of {@link loraForward} up to its inner activations: from `dy` [T, N] and forward's `u` sets `d` [T, r] =
 * scale * dy * b and adds d loss / d of `b` to `db` [N, r].
 * @param scale that of forward
 * @throws {OpError} `E_OP`: the shapes or dtypes do not fit.
 */
export function loraOutputBackward(dy: Tensor, b: Tensor, u: Tensor, d: Tensor, db: Tensor, scale: number): void {
  match('loraOutputBackward', {
    dy: [dy, 'T N', 'float'],
    b: [b, 'N r', 'float'],
    u: [u, 'T r', dy.dtype, 'strided'],
    d: [d, 'T r', dy.dtype, 'strided'],
    db: [db, 'N r', 'f32'],
  })
  call('loraOutputBackward', dy, b, u, d, db, scale)
}

/**
 * Memory beside its tensors that {@link loraOutputBackward} takes on the GPU for `rows` rows of `dy`: `d` in f32 of every 256
 * of its columns. `native/ops/lora/backward.cuh` takes the same, and a few MB for `db`.
 */
export function loraScratchBytes(rows: number, { shape: [columns = 0, rank = 0] }: Tensor): number {
  if (rank > 32) return 0
  return 4 * rows * Math.ceil(columns / 256) * (rank > 16 ? 32 : 16)
}

/**
 * The rest of backward, with forward's mask: from `d` of {@link loraOutputBackward} adds d loss / d of `x` to `dx` [T, K] and
 * of `a` to `da` [r, K]. Where there is no dropout `dx` can be left out: give `d` to the product of `dy` with the weight as
 * its {@link LowRank} part, together with `a`.
 * @param options those of forward
 * @throws {OpError} `E_OP`: the shapes or dtypes do not fit.
 */
export function loraInputBackward(
  d: Tensor,
  x: Tensor,
  a: Tensor,
  dx: Tensor | undefined,
  da: Tensor,
  options: LoraDropout = {},
): void {
  const { dropout = 0, seed = 0, stream = 0 } = options
  match('loraInputBackward', {
    d: [d, 'T r', x.dtype, 'strided'],
    x: [x, 'T K', 'float'],
    a: [a, 'r K', 'float'],
    ...(dx && { dx: [dx, 'T K', x.dtype] as const }),
    da: [da, 'r K', 'f32'],
  })
  call('loraInputBackward', d, x, a, dx, da, dropout, seed, stream)
}
