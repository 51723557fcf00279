import { chatSegments } from '../tokenizer/chatSegments.ts'
import type { ChatMessage } from '../tokenizer/chatTemplate.ts'
import { bosIds, encodeSegments } from '../tokenizer/segments.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

/** Text, token ids, or a conversation that the model's chat template writes. */
export type Prompt = string | readonly number[] | readonly ChatMessage[]

/** The ids of a prompt: text after bos where the tokenizer wants one, a conversation up to where its answer begins. */
export function promptIds(tokenizer: Tokenizer, prompt: Prompt): readonly number[] {
  if (typeof prompt === 'string') return [...bosIds(tokenizer), ...tokenizer.encode(prompt)]
  if (isIds(prompt)) return prompt
  const segments = chatSegments(tokenizer, prompt, { addGenerationPrompt: true })
  return encodeSegments(tokenizer, segments).flatMap(({ ids }) => ids)
}

export const isIds = (prompt: Exclude<Prompt, string>): prompt is readonly number[] => typeof prompt[0] !== 'object'
