import type { Context } from 'hono'
import { streamSSE } from 'hono/streaming'
import { AnswerWriter } from './answer.ts'
import { ApiError, toApiError } from './apiError.ts'
import type { Dialect } from './dialects.ts'
import type { EngineClient } from './engineClient.ts'
import { type Metrics, measured } from './metrics.ts'
import { connectionSignal, type Env } from './middleware.ts'
import type { ChatBody, CompletionBody } from './schemas.ts'

/** Where completions come from, and until when. */
export interface Served {
  engine: EngineClient
  /** Names of the base model and the adapters. */
  models: readonly string[]
  /** Aborted when running requests must end. */
  ending: AbortSignal
}

/** Answers a request for completions, whole or as server-sent events. */
export async function answerRequest<Body extends CompletionBody | ChatBody>(
  c: Context<Env>,
  dialect: Dialect<Body>,
  body: Body,
  { engine, models, ending }: Served,
  metrics: Metrics,
): Promise<Response> {
  if (!models.includes(body.model)) {
    throw new ApiError(404, `the model ${body.model} does not exist`, { code: 'model_not_found', param: 'model' })
  }
  const writer = new AnswerWriter(dialect, body)
  const signal = AbortSignal.any([ending, connectionSignal(c)])
  const events = await begun(measured(metrics, body.model, engine.complete(writer.requests, signal)))
  if (!body.stream) return c.json(await writer.whole(events))
  return streamSSE(c, async (stream) => {
    const send = (data: object) => stream.writeSSE({ data: JSON.stringify(data) })
    try {
      for await (const chunk of writer.chunks(events)) await send(chunk)
      await stream.writeSSE({ data: '[DONE]' })
    } catch (error) {
      await send(toApiError(error).body)
    }
  })
}

/** The same events once the first is there: an error before it is still an answer with a status of its own. */
async function begun<Event>(events: AsyncGenerator<Event, void>): Promise<AsyncGenerator<Event, void>> {
  const first = await events.next()
  return (async function* () {
    if (!first.done) yield first.value
    yield* events
  })()
}
