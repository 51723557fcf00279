import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

export interface CrossEntropyOptions {
  /** Weight of every row in loss and gradient: 1 / targets for a mean. */
  scale: number
  /** Turn the logits into d loss / d logits, in place. */
  backward?: boolean
  /** [rows]; receives -log p of every target, unscaled. */
  tokenLoss?: Tensor
}

/**
 * Adds `scale` times the sum of -log softmax(logits)[target] to `loss` [1]: `logits` [rows, vocab], `targets` [rows] i32, each
 * in [0, vocab). Rows that have no target are left out by the caller.
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  loss: Tensor,
  { scale, backward = false, tokenLoss }: CrossEntropyOptions,
): void {
  match('crossEntropy', {
    logits: [logits, 'rows vocab', 'float'],
    targets: [targets, 'rows', 'i32'],
    loss: [loss, [1], 'f32'],
    ...(tokenLoss && { tokenLoss: [tokenLoss, 'rows', 'f32'] as const }),
  })
  call('crossEntropy', logits, targets, loss, tokenLoss, scale, backward)
}
