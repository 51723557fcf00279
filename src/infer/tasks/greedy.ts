import type { DataRecord } from '../../data/records.ts'
import { pairsIn } from '../../lora/attach.ts'
import { encodeSegments, type Segment } from '../../tokenizer/segments.ts'
import { type StopSignal, stopIfAborted } from '../../worker/protocol.ts'
import { CompletionWriter } from '../completionWriter.ts'
import { Engine } from '../engine.ts'
import { generateDefaults } from '../generate.ts'
import type { LoadedModel } from '../loadedModel.ts'
import { TokenSequence } from '../tokenSequence.ts'
import { type TaskOptions, type TaskSizes, tooLong } from './task.ts'

/** A question as the model is given it. */
export interface Prompt {
  record: DataRecord
  segments: readonly Segment[]
}

/**
 * The likeliest text after each prompt, up to the first of `stop`; `microBatchSize` of them are generated at once.
 * @throws {DataError} `E_DATA`: a prompt and its answer may be longer than `sequenceLength`
 * @throws {AbortError} the signal, between two tokens
 */
export function greedyTexts(
  { model, tokenizer }: LoadedModel,
  prompts: readonly Prompt[],
  { maxNewTokens = 256, stop = [] }: Pick<TaskOptions, 'maxNewTokens' | 'stop'>,
  { sequenceLength, microBatchSize }: TaskSizes,
  signal: StopSignal,
): string[] {
  const adapter = pairsIn(model)
  const answers = prompts.map(({ record, segments }) => {
    const ids = encodeSegments(tokenizer, segments).flatMap((run) => run.ids)
    if (ids.length + maxNewTokens > sequenceLength) {
      tooLong(record, sequenceLength, {
        headline: 'the question and its answer are too long',
        found: `${ids.length} and maxNewTokens ${maxNewTokens}`,
        lowered: 'task.maxNewTokens or task.shotCount',
      })
    }
    const sequence = new TokenSequence(ids, adapter, model.config.eosTokenIds, { ...generateDefaults, maxNewTokens })
    return { sequence, writer: new CompletionWriter(sequence, tokenizer, stop), text: '' }
  })
  const engine = new Engine(model, Math.min(microBatchSize, prompts.length), sequenceLength, [adapter])
  try {
    for (const { sequence } of answers) engine.add(sequence)
    while (!engine.isIdle) {
      stopIfAborted(signal, 'evaluate')
      engine.step()
      for (const answer of answers) answer.text += answer.writer.next().text
    }
  } finally {
    engine.dispose()
  }
  return answers.map(({ text }) => text)
}
