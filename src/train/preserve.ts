import { type Batch, type BatchOptions, batchStream } from '../data/batches.ts'
import type { Examples } from '../data/encode.ts'
import { withoutPairs } from '../lora/attach.ts'
import type { Model } from '../model/model.ts'
import type { Teacher } from './teacher.ts'

/** Predictions that training shall leave as they are: on other text, those of the model without its pairs. */
export interface Preservation {
  readonly teacher: Teacher
  /** What a mean divergence of 1 nat adds to the loss. */
  readonly weight: number
  /** What the step is held to. Steps are asked for in order; any other one costs a pass over the examples. */
  batchAt(step: number): Batch
}

export type PreserveOptions = Omit<BatchOptions, 'packing' | 'shuffle' | 'dropLast'> & { weight: number }

/** Holds `model` to what it predicts of `examples` without its pairs, as it is in each step: a slice may change. */
export function preservation(model: Model, examples: Examples, { weight, ...options }: PreserveOptions): Preservation {
  const batchSize = Math.min(options.batchSize, examples.length)
  const streamOptions = { ...options, batchSize, packing: false, shuffle: true, dropLast: true }
  let expected = -1
  let source: Iterator<Batch>
  return {
    teacher: { model: withoutPairs(model), weight: 1, temperature: 1 },
    weight,
    batchAt(step) {
      if (step !== expected) {
        const perEpoch = Math.floor(examples.length / batchSize)
        const state = { epoch: Math.floor(step / perEpoch), position: (step % perEpoch) * batchSize }
        source = batchStream(examples, streamOptions, state)[Symbol.iterator]()
      }
      expected = step + 1
      return source.next().value
    },
  }
}
