import { crossEntropy } from '../native/crossEntropy.ts'
import { distillation } from '../native/distillation.ts'
import { gatherRows, scatterRows } from '../native/gather.ts'
import { rmsNorm, rmsNormBackward } from '../native/rmsNorm.ts'
import type { Arena } from '../tensor/arena.ts'
import { type Device, type Tensor, tensorFrom, zeros } from '../tensor/tensor.ts'
import type { Norm } from './block.ts'
import { type Dropout, type Linear, linearBackward, linearForward, outFeatures } from './linear.ts'

/**
 * Rows whose logits exist at once. On the GPU enough that a product with the head is not bound by reading its weight, and
 * whole tiles of it: about 128 MiB of logits. On the CPU 64 MiB.
 */
function chunkRows({ activations }: Device, vocabSize: number): number {
  if (activations === 'f32') return Math.max(1, Math.floor(2 ** 24 / vocabSize))
  return Math.max(1, Math.floor(2 ** 26 / vocabSize / 256)) * 256
}

export interface Head {
  readonly norm: Norm
  /** [vocab, hidden] */
  readonly linear: Linear
}

/** Rows of a micro-batch from which a token is learnt, and those tokens. */
export interface Targets {
  readonly rows: Int32Array
  readonly ids: Int32Array
}

/** Picks the positions that have a target: `targets[i]` is the token that position `i` predicts, negative for none. */
export function targetsOf(targets: Int32Array): Targets {
  const rows = targets.map((_, row) => row).filter((row) => targets[row]! >= 0)
  return { rows, ids: rows.map((row) => targets[row]!) }
}

/** What another model makes of the same tokens, for {@link distillation}. */
export interface Teaching {
  readonly head: Head
  readonly rmsNormEps: number
  /** [tokens, hidden] after its last layer. */
  readonly x: Tensor
  readonly weight: number
  readonly temperature: number
}

/**
 * Adds `scale` times the summed cross-entropy of the targets to `loss` [1], and, with `dx` [tokens, hidden], its gradient
 * at `x` to `dx`. Only rows with a target are multiplied by the head, in chunks, so the logits never exist whole; those of a
 * teacher neither.
 * @param options `tokenLoss` [targets] receives every target's own, unscaled, where there is no teacher
 */
export function headLoss(
  head: Head,
  rmsNormEps: number,
  x: Tensor,
  targets: Targets,
  scale: number,
  loss: Tensor,
  options: { dx?: Tensor; dropout?: Dropout | undefined; tokenLoss?: Tensor; teaching?: Teaching | undefined } = {},
): void {
  const { dx, tokenLoss, teaching } = options
  const count = targets.rows.length
  if (count === 0) return
  const arena = x.device as Arena
  const start = arena.mark()
  const { y, rstd } = rmsNorm(x, head.norm.weight, rmsNormEps)
  const rows = tensorFrom(arena, targets.rows)
  const h = gatherRows(y, rows)
  const taught = teaching && gatherRows(rmsNorm(teaching.x, teaching.head.norm.weight, teaching.rmsNormEps).y, rows)
  const dh = dx && arena.empty(h.shape, h.dtype)
  const ids = tensorFrom(arena, targets.ids)
  const chunk = chunkRows(arena, outFeatures(head.linear))
  for (let from = 0; from < count; from += chunk) {
    const to = Math.min(from + chunk, count)
    const mark = arena.mark()
    const dropout = options.dropout && { ...options.dropout, stream: options.dropout.stream + from / chunk }
    const { y: logits, u } = linearForward(head.linear, h.rows(from, to), { dropout })
    const targetIds = ids.slice(from, [to - from])
    const backward = dx !== undefined
    if (teaching && taught) {
      const { y: teacher } = linearForward(teaching.head.linear, taught.rows(from, to))
      distillation(logits, teacher, targetIds, loss, { ...teaching, scale, backward })
    } else {
      const ofTokens = tokenLoss && { tokenLoss: tokenLoss.slice(from, [to - from]) }
      crossEntropy(logits, targetIds, loss, { scale, backward, ...ofTokens })
    }
    if (dh) linearBackward(head.linear, h.rows(from, to), u, logits, { dropout, into: dh.rows(from, to) })
    arena.release(mark)
  }
  if (dx && dh) {
    const dy = zeros(arena, y.shape, y.dtype)
    scatterRows(dh, rows, dy)
    rmsNormBackward(dy, x, head.norm.weight, rstd, dx, head.norm.grad)
  }
  arena.release(start)
}
