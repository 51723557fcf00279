import { randomInt } from 'node:crypto'
import type { Prompt } from '../infer/prompt.ts'
import type { CompletionRequest } from '../infer/scheduler.ts'
import type { ChatBody, CompletionBody } from './schemas.ts'

const defaultMaxTokens = 16 // OpenAI's, for completions

/** The completions that a request asks for: all choices of its first prompt, then those of the next. */
export function completionRequests(body: CompletionBody): CompletionRequest[] {
  const prompts = promptsOf(body.prompt)
  return requestsFor(prompts, body, {
    maxNewTokens: body.max_tokens ?? defaultMaxTokens,
    logprobs: body.logprobs ?? undefined,
    echo: body.echo ?? false,
  })
}

/** The choices that a conversation asks for. */
export function chatRequests(body: ChatBody): CompletionRequest[] {
  const messages = body.messages.map(({ role, content }) => ({
    role,
    content: typeof content === 'string' ? content : content.map(({ text }) => text).join(''),
  }))
  return requestsFor([messages], body, {
    maxNewTokens: body.max_completion_tokens ?? body.max_tokens ?? undefined,
    logprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
    echo: false,
  })
}

function promptsOf(prompt: CompletionBody['prompt']): Prompt[] {
  if (typeof prompt === 'string') return [prompt]
  return isIds(prompt) ? [prompt] : prompt
}

const isIds = (prompt: Exclude<CompletionBody['prompt'], string>): prompt is number[] => typeof prompt[0] === 'number'

function requestsFor(
  prompts: readonly Prompt[],
  body: CompletionBody | ChatBody,
  own: Pick<CompletionRequest, 'maxNewTokens' | 'logprobs' | 'echo'>,
): CompletionRequest[] {
  const seed = body.seed ?? randomInt(2 ** 31)
  const options = {
    model: body.model,
    temperature: body.temperature ?? 1,
    topP: body.top_p ?? 1,
    topK: body.top_k ?? 0,
    stop: [body.stop ?? []].flat(),
    ...own,
  }
  return prompts.flatMap((prompt) =>
    Array.from({ length: body.n ?? 1 }, (_, i) => ({ ...options, prompt, seed: seed + i })),
  )
}
