import { OpenAPIHono } from '@hono/zod-openapi'
import type { Context } from 'hono'
import { answerRequest, type Served } from './answerRequest.ts'
import { ApiError, toApiError } from './apiError.ts'
import { chat, completions } from './dialects.ts'
import { createMetrics } from './metrics.ts'
import { authorised, counted, type Env, limitedBody, whileOpen } from './middleware.ts'
import { chatRoute, completionRoute, healthRoute, metricsRoute, modelsRoute } from './routes.ts'

export interface AppOptions extends Served {
  version: string
  apiKey: string | undefined
  /** Whether new requests are taken. */
  isOpen(): boolean
}

const routes = [completionRoute, chatRoute, modelsRoute, healthRoute, metricsRoute]

/** OpenAI's HTTP interface to an engine. */
export function createApp(options: AppOptions): OpenAPIHono<Env> {
  const { engine, models, version, apiKey, isOpen } = options
  const metrics = createMetrics(engine)
  const { registry } = metrics
  const app = new OpenAPIHono<Env>({ defaultHook: refuseInvalid })
  app.use(counted(metrics, new Set(routes.map(({ path }) => path))))
  app.use('/v1/*', whileOpen(isOpen))
  if (apiKey !== undefined) app.use('/v1/*', authorised(apiKey))
  app.post('/v1/*', limitedBody)

  app.openapi(completionRoute, (c) => answerRequest(c, completions, c.req.valid('json'), options, metrics))
  app.openapi(chatRoute, (c) => answerRequest(c, chat, c.req.valid('json'), options, metrics))
  const created = Math.floor(Date.now() / 1000)
  app.openapi(modelsRoute, (c) => {
    const data = models.map((id) => ({ id, object: 'model' as const, created, owned_by: 'loram' }))
    return c.json({ object: 'list' as const, data }, 200)
  })
  app.openapi(healthRoute, (c) =>
    isOpen() && engine.isAlive ? c.json({ status: 'ok' }, 200) : c.json({ status: 'unavailable' }, 503),
  )
  app.openapi(metricsRoute, async (c) =>
    c.text(await registry.metrics(), 200, { 'Content-Type': registry.contentType }),
  )
  app.doc31('/openapi.json', { openapi: '3.1.0', info: { title: 'loram', version } })

  app.notFound((c) => failure(c, new ApiError(404, `there is no ${c.req.method} ${c.req.path}`)))
  app.onError((error, c) => failure(c, toApiError(error)))
  return app
}

const failure = (c: Context, { status, body, headers }: ApiError) => c.json(body, status, headers)

/** A body that its schema does not allow; the first thing that is wrong names the field. */
function refuseInvalid(result: {
  success: boolean
  error?: { issues: readonly { path: PropertyKey[]; message: string; keys?: string[] }[] }
}) {
  if (result.success) return
  const { path, message, keys: unknown = [] } = result.error!.issues[0]!
  const param = [...path, ...unknown.slice(0, 1)].map(String).join('.')
  throw new ApiError(400, param ? `${param}: ${message}` : message, param ? { param } : {})
}
