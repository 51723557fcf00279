import type { MicroBatch } from '../data/batches.ts'
import { headLoss, targetsOf } from '../model/head.ts'
import { type Model, modelForward } from '../model/model.ts'
import type { Arena } from '../tensor/arena.ts'
import { zeros } from '../tensor/tensor.ts'
import { toDevice } from '../train/step.ts'

export interface Evaluation {
  /** exp(loss) */
  perplexity: number
  /** Mean cross-entropy of the targets, in nats. */
  loss: number
  /** Tokens that went through the model. */
  tokens: number
  /** Tokens that were predicted. */
  targets: number
}

/** Mean loss of `model` over `batches`; every target weighs the same. */
export function evaluateLoss(model: Model, arena: Arena, batches: Iterable<MicroBatch>): Evaluation {
  let sum = 0
  let tokens = 0
  let targets = 0
  for (const batch of batches) {
    const start = arena.mark()
    const learnt = targetsOf(batch.targets)
    const loss = zeros(arena, [1], 'f32')
    const x = modelForward(model, arena, toDevice(arena, batch))
    headLoss(model.head, model.constants.rmsNormEps, x, learnt, 1, loss)
    sum += loss.item()
    tokens += batch.ids.length
    targets += learnt.rows.length
    arena.release(start)
  }
  const loss = sum / targets
  return { perplexity: Math.exp(loss), loss, tokens, targets }
}
