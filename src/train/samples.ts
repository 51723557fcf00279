import { type Examples, firstOf, ignoredTarget } from '../data/encode.ts'
import { generateDefaults, generateText } from '../infer/generate.ts'
import type { Model } from '../model/model.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { SampledAnswer } from './events.ts'

const maxNewTokens = 64

/** What `model` answers to the first prompts of `examples`; those that leave no room for an answer are passed over. */
export function* sampleAnswers(
  model: Model,
  tokenizer: Tokenizer,
  examples: Examples,
  count: number,
): Generator<SampledAnswer> {
  for (const { ids, targets } of firstOf(examples, count)) {
    const start = 1 + targets.findIndex((target) => target !== ignoredTarget)
    const end = targets.indexOf(ignoredTarget, start)
    const prompt = Array.from(ids.subarray(0, start))
    const room = model.config.maxPositionEmbeddings - start
    if (room < 1) continue
    const options = { ...generateDefaults, maxNewTokens: Math.min(maxNewTokens, room) }
    yield {
      prompt: tokenizer.decode(prompt),
      expected: tokenizer.decode(ids.subarray(start, end + 1)),
      answer: [...generateText(model, tokenizer, prompt, options)].join(''),
    }
  }
}
