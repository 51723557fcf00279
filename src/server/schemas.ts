// OpenAI's requests and answers, as far as loram has them. What a request may not have is refused, not ignored; `null` is
// the same as leaving a field out.
import { z } from '@hono/zod-openapi'

const count = z.int().min(1)

const sampling = {
  model: z.string().openapi({ description: 'one of /v1/models' }),
  max_tokens: z.int().min(0).nullish(),
  temperature: z.number().min(0).nullish().openapi({ description: 'default 1; 0 takes the most likely token' }),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(0).nullish().openapi({ description: 'only the k most likely tokens; not of OpenAI' }),
  seed: z.int().min(0).nullish().openapi({ description: 'the same seed draws the same; choice i has seed + i' }),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(16)]).nullish(),
  n: count.max(16).nullish().openapi({ description: 'choices for each prompt' }),
  stream: z.boolean().nullish(),
  stream_options: z.strictObject({ include_usage: z.boolean().nullish() }).nullish(),
  frequency_penalty: z.literal(0).nullish(),
  presence_penalty: z.literal(0).nullish(),
  user: z.string().nullish().openapi({ description: 'has no effect' }),
}

const ids = z.array(z.int().min(0)).min(1)

export const completionBody = z
  .strictObject({
    ...sampling,
    prompt: z.union([z.string(), z.array(z.string()).min(1), ids, z.array(ids).min(1)], {
      error: 'a text or token ids, or a list of these',
    }),
    max_tokens: sampling.max_tokens.openapi({ description: 'default 16' }),
    echo: z.boolean().nullish().openapi({ description: 'the prompt comes first, scored where logprobs is given' }),
    logprobs: z.int().min(0).max(20).nullish(),
  })
  .openapi('CompletionRequest')

const textPart = z.strictObject({ type: z.literal('text'), text: z.string() })

const message = z.strictObject({
  role: z.enum(['system', 'user', 'assistant', 'tool']),
  content: z.union([z.string(), z.array(textPart)]),
})

export const chatBody = z
  .strictObject({
    ...sampling,
    messages: z.array(message).min(1),
    max_tokens: sampling.max_tokens.openapi({ description: 'default: as many as the context has room for' }),
    max_completion_tokens: sampling.max_tokens.openapi({ description: 'the newer name of max_tokens' }),
    logprobs: z.boolean().nullish(),
    top_logprobs: z.int().min(0).max(20).nullish().openapi({ description: 'wants logprobs' }),
  })
  .refine(({ logprobs, top_logprobs }) => logprobs || !top_logprobs, {
    path: ['top_logprobs'],
    message: 'wants logprobs: true',
  })
  .refine(
    ({ max_tokens: older, max_completion_tokens: newer }) => (older ?? newer ?? null) === (newer ?? older ?? null),
    { path: ['max_completion_tokens'], message: 'max_tokens, its older name, says something else' },
  )
  .openapi('ChatCompletionRequest')

export type CompletionBody = z.output<typeof completionBody>
export type ChatBody = z.output<typeof chatBody>

const usage = z.object({ prompt_tokens: z.int(), completion_tokens: z.int(), total_tokens: z.int() }).openapi('Usage')
const finishReason = z.enum(['stop', 'length'])
const head = { id: z.string(), created: z.int(), model: z.string() }

const textLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(z.int()),
})

export const completionAnswer = z
  .object({
    ...head,
    object: z.literal('text_completion'),
    choices: z.array(
      z.object({
        index: z.int(),
        text: z.string(),
        logprobs: textLogprobs.nullable(),
        finish_reason: finishReason.nullable(),
      }),
    ),
    usage: usage.optional(),
  })
  .openapi('Completion')

const likelyToken = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() })
const chatLogprobs = z.object({ content: z.array(likelyToken.extend({ top_logprobs: z.array(likelyToken) })) })

const chatHead = { index: z.int(), logprobs: chatLogprobs.nullable(), finish_reason: finishReason.nullable() }

export const chatAnswer = z
  .object({
    ...head,
    object: z.literal('chat.completion'),
    choices: z.array(
      z.object({
        ...chatHead,
        message: z.object({ role: z.literal('assistant'), content: z.string(), refusal: z.null() }),
      }),
    ),
    usage: usage.optional(),
  })
  .openapi('ChatCompletion')

export const modelList = z
  .object({
    object: z.literal('list'),
    data: z.array(z.object({ id: z.string(), object: z.literal('model'), created: z.int(), owned_by: z.string() })),
  })
  .openapi('ModelList')

export const health = z.object({ status: z.string() }).openapi('Health')

export const errorAnswer = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string().nullable(),
    }),
  })
  .openapi('Error')

export type TextLogprobs = z.output<typeof textLogprobs>
export type ChatLogprobs = z.output<typeof chatLogprobs>
export type Usage = z.output<typeof usage>
