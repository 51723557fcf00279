import type { ScoredToken } from '../infer/completionWriter.ts'
import type { Completion, CompletionRequest } from '../infer/scheduler.ts'
import { chatLogprobs, textLogprobs } from './logprobs.ts'
import { chatRequests, completionRequests } from './requests.ts'
import type { ChatBody, CompletionBody } from './schemas.ts'

/** A choice, whole or the next part of it. */
export interface Choice {
  index: number
  text: string
  /** `undefined`: no scores were asked for, or none come with this part. */
  tokens: ScoredToken[] | undefined
  /** Characters of its tokens before this part. */
  offset: number
  /** There once the choice is complete. */
  completion: Completion | undefined
}

/** What completions and chat completions differ in. */
export interface Dialect<Body> {
  idPrefix: string
  object: string
  chunkObject: string
  requests(body: Body): CompletionRequest[]
  /** A choice of an answer that is sent whole. */
  whole(choice: Choice): object
  /** The next part of a choice, in a chunk. */
  part(choice: Choice): object
  /** What each choice begins with in chunks. */
  opening: object | undefined
}

const finishReason = ({ completion }: Choice) => completion?.finishReason ?? null

const textChoice = (choice: Choice) => ({
  index: choice.index,
  text: choice.text,
  logprobs: choice.tokens ? textLogprobs(choice.tokens, choice.offset) : null,
  finish_reason: finishReason(choice),
})

export const completions: Dialect<CompletionBody> = {
  idPrefix: 'cmpl',
  object: 'text_completion',
  chunkObject: 'text_completion',
  requests: completionRequests,
  whole: textChoice,
  part: textChoice,
  opening: undefined,
}

const chatChoice = (choice: Choice) => ({
  index: choice.index,
  logprobs: choice.tokens ? chatLogprobs(choice.tokens) : null,
  finish_reason: finishReason(choice),
})

export const chat: Dialect<ChatBody> = {
  idPrefix: 'chatcmpl',
  object: 'chat.completion',
  chunkObject: 'chat.completion.chunk',
  requests: chatRequests,
  whole: (choice) => ({ ...chatChoice(choice), message: { role: 'assistant', content: choice.text, refusal: null } }),
  part: (choice) => ({ ...chatChoice(choice), delta: choice.completion ? {} : { content: choice.text } }),
  opening: { delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null },
}
