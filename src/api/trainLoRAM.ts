import { type TrainLoRAMOptions, trainLoRAMOptions } from '../options/index.ts'
import type { RunEvent } from '../train/events.ts'
import type { TrainResult } from '../train/run.ts'
import { orNone, validate } from '../validate.ts'
import { runInWorker } from '../worker/client.ts'
import { EventLog } from '../worker/eventLog.ts'

/** A training run: `await` it for its result, or iterate over it for its events; both work together. */
export interface TrainingRun extends PromiseLike<TrainResult>, AsyncIterable<RunEvent> {}

/**
 * Fine-tunes `model` by LoRAM (arXiv 2502.13533): prunes it, aligns the small model, trains LoRA on it with its base in
 * NF4, and brings the adapter back to the original's dimensions. Without `prune` it is plain LoRA or QLoRA on the model.
 *
 * Runs in a worker thread; the caller's event loop stays free. The adapter, in PEFT's format, lies in `output`, and under
 * `output/run` everything on the way to it.
 *
 * @param options `signal` stops the run at the end of a step, with a checkpoint written; `resume: true` goes on from it
 * @throws {LoramError} of the class and code that docs/errors.md lists; {@link AbortError} after an abort
 * @example
 * const run = trainLoRAM({ model: './Llama-3.1-8B', data: { train: 'train.jsonl' }, prune: { ratio: 0.65 }, output: './adapter' })
 * for await (const event of run) if (event.type === 'step') console.log(event.step, event.loss)
 * const { adapter, metrics } = await run
 */
export function trainLoRAM(options: TrainLoRAMOptions & { signal?: AbortSignal }): TrainingRun {
  const { signal, ...rest } = orNone(options)
  const events = new EventLog<RunEvent>()
  const start = async () => {
    const resolved = validate(trainLoRAMOptions, rest)
    return runInWorker('trainLoRAM', resolved, { signal, onEvent: (event) => events.push(event) })
  }
  const result = start()
  const end = () => events.end()
  result.then(end, end)
  return {
    // biome-ignore lint/suspicious/noThenProperty: a run is awaitable, as users expect of a task
    then: (resolve, reject) => result.then(resolve, reject),
    async *[Symbol.asyncIterator]() {
      yield* events
      await result
    },
  }
}
