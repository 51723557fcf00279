import type { ScoredToken } from '../infer/completionWriter.ts'
import type { ChatLogprobs, TextLogprobs } from './schemas.ts'

/** Scores in the form of completions; `offset` is where the first token's text begins. */
export function textLogprobs(tokens: readonly ScoredToken[], offset: number): TextLogprobs {
  let at = offset
  return {
    tokens: tokens.map(({ text }) => text),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ logprob, top }) => (logprob === null ? null : byText(top))),
    text_offset: tokens.map(({ text }) => {
      at += text.length
      return at - text.length
    }),
  }
}

/** Of several tokens with one text, the likeliest, which comes first. */
const byText = (top: ScoredToken['top']) =>
  Object.fromEntries(top.toReversed().map(({ text, logprob }) => [text, logprob]))

/** Scores in the form of chat completions. */
export const chatLogprobs = (tokens: readonly ScoredToken[]): ChatLogprobs => ({
  content: tokens.map(({ text, logprob, top }) => ({
    ...likely(text, logprob!),
    top_logprobs: top.map((other) => likely(other.text, other.logprob)),
  })),
})

/** Bytes are unknown where a token is only a part of a character. */
const likely = (token: string, logprob: number) => ({
  token,
  logprob,
  bytes: token.includes('\uFFFD') ? null : [...Buffer.from(token)],
})
