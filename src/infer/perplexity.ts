import { type BatchOptions, evaluationBatches, type MicroBatch } from '../data/batches.ts'
import type { Example } from '../data/encode.ts'
import { arenaFor, fullMicroBatch } from '../memory/measure.ts'
import { headLoss, targetsOf } from '../model/head.ts'
import { type Model, modelForward } from '../model/model.ts'
import type { Arena } from '../tensor/arena.ts'
import { zeros } from '../tensor/tensor.ts'
import { toDevice } from '../train/step.ts'
import { neverAborted, type StopSignal } from '../worker/protocol.ts'

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

/** Mean loss of `model` over `batches`; every target weighs the same. `undefined`: the signal was aborted before the end. */
export function evaluateLoss(
  model: Model,
  arena: Arena,
  batches: Iterable<MicroBatch>,
  signal: StopSignal,
): Evaluation | undefined {
  let sum = 0
  let tokens = 0
  let targets = 0
  for (const batch of batches) {
    if (signal.aborted) return undefined
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

/** {@link evaluateLoss} over examples, in an arena of its own. */
export function evaluateExamples(
  model: Model,
  examples: readonly Example[],
  sizes: Pick<BatchOptions, 'microBatchSize' | 'sequenceLength'>,
  signal: StopSignal,
): Evaluation | undefined {
  const largest = fullMicroBatch(sizes.microBatchSize * sizes.sequenceLength)
  const arena = arenaFor(model, (twin, meta) => evaluateLoss(twin, meta, [largest], neverAborted))
  try {
    return evaluateLoss(model, arena, evaluationBatches(examples, sizes), signal)
  } finally {
    arena.dispose()
  }
}
