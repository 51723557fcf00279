import { createRoute, z } from '@hono/zod-openapi'
import { chatAnswer, chatBody, completionAnswer, completionBody, errorAnswer, health, modelList } from './schemas.ts'

const json = <Schema extends z.ZodType>(description: string, schema: Schema) => ({
  description,
  content: { 'application/json': { schema } },
})

const errors = {
  400: json('the request is not valid', errorAnswer),
  401: json('the API key is missing or wrong', errorAnswer),
  404: json('there is no such model', errorAnswer),
  413: json('the request is too large', errorAnswer),
  415: json('the request is not JSON', errorAnswer),
  429: json('too many requests wait; Retry-After says when to try again', errorAnswer),
  500: json('the server failed', errorAnswer),
  503: json('the server is shutting down', errorAnswer),
}

const answer = (schema: z.ZodType) => ({
  description: 'choices; with `stream` as server-sent events: chunks of them, and at the end [DONE]',
  content: { 'application/json': { schema }, 'text/event-stream': { schema: z.string() } },
})

export const completionRoute = createRoute({
  method: 'post',
  path: '/v1/completions',
  summary: 'Text that follows prompts',
  request: { body: { required: true, content: { 'application/json': { schema: completionBody } } } },
  responses: { 200: answer(completionAnswer), ...errors },
})

export const chatRoute = createRoute({
  method: 'post',
  path: '/v1/chat/completions',
  summary: "Answers to a conversation, in the model's chat template",
  request: { body: { required: true, content: { 'application/json': { schema: chatBody } } } },
  responses: { 200: answer(chatAnswer), ...errors },
})

export const modelsRoute = createRoute({
  method: 'get',
  path: '/v1/models',
  summary: 'The base model and the registered adapters',
  responses: { 200: json('their names', modelList), 401: errors[401] },
})

export const healthRoute = createRoute({
  method: 'get',
  path: '/health',
  summary: 'Whether the server takes requests',
  responses: { 200: json('it does', health), 503: json('it does not', health) },
})

export const metricsRoute = createRoute({
  method: 'get',
  path: '/metrics',
  summary: 'Counts and times, for Prometheus',
  responses: { 200: { description: 'in its text format', content: { 'text/plain': { schema: z.string() } } } },
})
