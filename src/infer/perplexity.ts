import { type BatchOptions, evaluationBatches, type MicroBatch } from '../data/batches.ts'
import type { Example } from '../data/encode.ts'
import { alone, type Group, shareOf, total } from '../distributed/group.ts'
import { arenaFor, fullMicroBatch } from '../memory/measure.ts'
import { headLoss, targetsOf } from '../model/head.ts'
import { type Model, modelForward } from '../model/model.ts'
import type { Arena } from '../tensor/arena.ts'
import { zeros } from '../tensor/tensor.ts'
import { toDevice } from '../train/step.ts'
import { type StopSignal, stopIfAborted } from '../worker/protocol.ts'

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

/**
 * Mean loss of `model` over `batches`; every target weighs the same.
 * @param group whose processes divide the batches among them; all get the result
 * @returns `undefined`: the signal was aborted before the end
 */
export function evaluateLoss(
  model: Model,
  arena: Arena,
  batches: Iterable<MicroBatch>,
  signal: StopSignal,
  group: Group = alone,
): Evaluation | undefined {
  const sums = { loss: 0, tokens: 0, targets: 0 }
  for (const batch of shareOf(batches, group)) {
    if (signal.aborted) return undefined
    const start = arena.mark()
    const learnt = targetsOf(batch.targets)
    const loss = zeros(arena, [1], 'f32')
    const x = modelForward(model, arena, toDevice(arena, batch))
    headLoss(model.head, model.constants.rmsNormEps, x, learnt, 1, loss)
    sums.loss += loss.item()
    sums.tokens += batch.ids.length
    sums.targets += learnt.rows.length
    arena.release(start)
  }
  const [sum, tokens, targets] = total(group, [sums.loss, sums.tokens, sums.targets])
  const loss = sum / targets
  return { perplexity: Math.exp(loss), loss, tokens, targets }
}

/** {@link evaluateLoss} over examples, in an arena of its own. */
export function evaluateExamples(
  model: Model,
  examples: Iterable<Example>,
  sizes: Sizes,
  signal: StopSignal,
): Evaluation | undefined {
  return overBatches(model, examples, sizes, (model, arena, batches) => evaluateLoss(model, arena, batches, signal))
}

/**
 * Cross-entropy of each example's targets, summed, in nats.
 * @throws {AbortError} the signal was aborted before the end
 */
export function exampleLosses(model: Model, examples: Iterable<Example>, sizes: Sizes, signal: StopSignal): number[] {
  return overBatches(model, examples, sizes, (model, arena, batches) =>
    Array.from(batches).flatMap((batch) => {
      stopIfAborted(signal, 'evaluate')
      return lossesOf(model, arena, batch)
    }),
  )
}

function lossesOf(model: Model, arena: Arena, batch: MicroBatch): number[] {
  const start = arena.mark()
  const { rows, ids } = targetsOf(batch.targets)
  const tokenLoss = arena.empty([rows.length], 'f32')
  const x = modelForward(model, arena, toDevice(arena, batch))
  const options = { tokenLoss }
  headLoss(model.head, model.constants.rmsNormEps, x, { rows, ids }, 1, zeros(arena, [1], 'f32'), options)
  const losses = tokenLoss.read() as Float32Array
  arena.release(start)
  const sums = new Array<number>(batch.bounds.length - 1).fill(0)
  let example = 0
  for (const [i, row] of rows.entries()) {
    while (row >= batch.bounds[example + 1]!) example++
    sums[example]! += losses[i]!
  }
  return sums
}

type Sizes = Pick<BatchOptions, 'microBatchSize' | 'sequenceLength'>

/** Does `work` with batches of the examples, in an arena that holds the largest of them. */
function overBatches<Result>(
  model: Model,
  examples: Iterable<Example>,
  sizes: Sizes,
  work: (model: Model, arena: Arena, batches: Iterable<MicroBatch>) => Result,
): Result {
  const largest = fullMicroBatch(sizes.microBatchSize * sizes.sequenceLength)
  const arena = arenaFor(model, (twin, meta) => work(twin, meta, [largest]))
  try {
    return work(model, arena, evaluationBatches(examples, sizes))
  } finally {
    arena.dispose()
  }
}
