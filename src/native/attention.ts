import { OpError } from '../errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/**
 * Causal attention with grouped key-value heads over sequences that lie one after another: `q` [queries, heads * headDim],
 * `k` and `v` [keys, kvHeads * headDim]. Sequence `s` has the queries `[queryBounds[s], queryBounds[s + 1])` and the keys
 * `[keyBounds[s], keyBounds[s + 1])`, their ends aligned: with a cache it has more keys than queries, never fewer. Both
 * bounds are [sequences + 1] i32, begin with 0 and end with the number of rows. With a `window` a query sees no more than
 * so many keys, its own the last of them (Beltagy et al. 2020, arXiv 2004.05150); 0 stands for all.
 *
 * Returns `y` like `q`, and `lse` [queries, heads], the logarithm of every softmax's denominator, which backward needs.
 * Scores are scaled by 1 / sqrt(headDim) and never held whole (FlashAttention, Dao et al. 2022, arXiv 2205.14135).
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  queryBounds: Tensor,
  keyBounds: Tensor,
  headDim: number,
  window = 0,
): { y: Tensor; lse: Tensor } {
  const { queries, width, kvWidth } = match('attention', {
    q: [q, 'queries width', 'float'],
    k: [k, 'keys kvWidth', q.dtype],
    v: [v, 'keys kvWidth', q.dtype],
    queryBounds: [queryBounds, 'bounds', 'i32'],
    keyBounds: [keyBounds, 'bounds', 'i32'],
  })
  checkHeads('attention', q, kvWidth, headDim)
  const y = q.device.empty([queries, width], q.dtype)
  const lse = q.device.empty([queries, width / headDim], 'f32')
  call('attention', q, k, v, queryBounds, keyBounds, y, lse, headDim, window)
  return { y, lse }
}

/**
 * Backward of {@link attention} without a cache: both bounds are `bounds`. `dy` and `y` are like `q`, and so is `dq`; `dk`
 * and `dv` are like `k`, summed over the query heads that read them (FlashAttention-2, Dao 2023, arXiv 2307.08691).
 */
export function attentionBackward(
  dy: Tensor,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  y: Tensor,
  lse: Tensor,
  bounds: Tensor,
  headDim: number,
  window = 0,
): { dq: Tensor; dk: Tensor; dv: Tensor } {
  const { kvWidth } = match('attentionBackward', {
    q: [q, 'tokens width', 'float'],
    dy: [dy, 'tokens width', q.dtype],
    k: [k, 'tokens kvWidth', q.dtype],
    v: [v, 'tokens kvWidth', q.dtype],
    y: [y, 'tokens width', q.dtype],
    lse: [lse, 'tokens heads', 'f32'],
    bounds: [bounds, 'bounds', 'i32'],
  })
  checkHeads('attentionBackward', q, kvWidth, headDim)
  const dq = q.device.empty(q.shape, q.dtype)
  const dk = q.device.empty(k.shape, q.dtype)
  const dv = q.device.empty(v.shape, q.dtype)
  call('attentionBackward', dy, q, k, v, y, lse, bounds, dq, dk, dv, headDim, window)
  return { dq, dk, dv }
}

/**
 * Memory beside its tensors that {@link attentionBackward} takes on the GPU: 16 bytes for every row of every head.
 * `native/ops/attention/cuda.cu` takes the same.
 */
export const attentionScratchBytes = (tokens: number, heads: number): number => 16 * tokens * heads

function checkHeads(op: string, { device, shape }: Tensor, kvWidth: number, headDim: number): void {
  const width = shape[1]!
  if (device.rowAlignment > 1 && (headDim % 8 !== 0 || headDim > 128)) {
    throw new OpError('E_OP', `${op}: the heads do not fit the GPU`, {
      expected: 'a headDim that is a multiple of 8, at most 128',
      found: String(headDim),
    })
  }
  if (width > 0 && kvWidth % headDim === 0 && width % kvWidth === 0) return
  throw new OpError('E_OP', `${op}: the heads do not fit`, {
    expected: `key-value heads of ${headDim}, each read by the same number of query heads`,
    found: `${kvWidth / headDim} key-value heads, ${width / headDim} query heads`,
  })
}
