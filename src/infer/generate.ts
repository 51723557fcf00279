import { pairsIn } from '../lora/attach.ts'
import type { Model } from '../model/model.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { Engine } from './engine.ts'
import type { SampleOptions } from './sample.ts'
import { TextStream } from './textStream.ts'
import { TokenSequence } from './tokenSequence.ts'

export interface GenerateOptions extends SampleOptions {
  /** Default: a usual number, or as many as there is room for. */
  maxNewTokens?: number | undefined
  /** Text that ends generation; it is not part of the result. */
  stop: readonly string[]
}

/** The same, decided. */
type Decided = GenerateOptions & { maxNewTokens: number }

export const generateDefaults: Decided = {
  maxNewTokens: 128,
  temperature: 0,
  topK: 0,
  topP: 1,
  seed: 0,
  stop: [],
}

/** Token ids that follow `prompt`, one by one, up to and without an end-of-sequence token. */
export function* generateTokens(
  model: Model,
  prompt: readonly number[],
  options: Pick<Decided, 'maxNewTokens'> & SampleOptions,
): Generator<number, void> {
  const adapter = pairsIn(model)
  const sequence = new TokenSequence(prompt, adapter, model.config.eosTokenIds, options)
  const engine = new Engine(model, 1, prompt.length + options.maxNewTokens, [adapter])
  try {
    engine.add(sequence)
    for (let given = prompt.length; !sequence.finished; given = sequence.ids.length) {
      engine.step()
      yield* sequence.ids.slice(given)
    }
  } finally {
    engine.dispose()
  }
}

/**
 * Text that follows `prompt`, in pieces as it is generated.
 * @param tokenIds receives the ids that the text is made of
 */
export function* generateText(
  model: Model,
  tokenizer: Tokenizer,
  prompt: readonly number[],
  options: Decided,
  tokenIds: number[] = [],
): Generator<string, void> {
  const stream = new TextStream(tokenizer, options.stop)
  for (const id of generateTokens(model, prompt, options)) {
    tokenIds.push(id)
    const text = stream.push(id)
    if (text) yield text
    if (stream.stopped) return
  }
  const rest = stream.end()
  if (rest) yield rest
}
