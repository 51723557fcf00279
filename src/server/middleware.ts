import { createHash, timingSafeEqual } from 'node:crypto'
import type { HttpBindings } from '@hono/node-server'
import type { Context, MiddlewareHandler } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { ApiError } from './apiError.ts'
import type { Metrics } from './metrics.ts'

export type Env = { Bindings: HttpBindings }

/** Room for a context of some hundred thousand tokens, as ids or as text. */
const maxBodyBytes = 2 ** 20

export const limitedBody: MiddlewareHandler = bodyLimit({
  maxSize: maxBodyBytes,
  onError: () => {
    throw new ApiError(413, `a request may have ${maxBodyBytes} bytes`)
  },
})

/** Refuses requests without the API key. */
export function authorised(apiKey: string): MiddlewareHandler {
  const expected = digest(`Bearer ${apiKey}`)
  return async (c, next) => {
    const found = digest(c.req.header('Authorization') ?? '')
    if (timingSafeEqual(found, expected)) return next()
    throw new ApiError(401, 'the API key is missing or wrong', {
      code: 'invalid_api_key',
      headers: { 'WWW-Authenticate': 'Bearer' },
    })
  }
}

/** Of equal length whatever the text, so that comparing takes the same time. */
const digest = (text: string) => createHash('sha256').update(text).digest()

/** Refuses requests while `isOpen` says no. */
export const whileOpen =
  (isOpen: () => boolean): MiddlewareHandler =>
  async (_, next) => {
    if (isOpen()) return next()
    throw new ApiError(503, 'the server is shutting down')
  }

/** Counts requests, and the time to the end of their answers. */
export function counted({ requests, requestSeconds }: Metrics, routes: ReadonlySet<string>): MiddlewareHandler<Env> {
  return async (c, next) => {
    const route = routes.has(c.req.path) ? c.req.path : 'other'
    const stop = requestSeconds.startTimer({ route })
    const { outgoing } = c.env
    outgoing.once('close', () => {
      stop()
      requests.inc({ route, status: outgoing.statusCode })
    })
    await next()
  }
}

/** Aborted when the client is gone, or has its answer. */
export function connectionSignal(c: Context<Env>): AbortSignal {
  const controller = new AbortController()
  c.env.outgoing.once('close', () => controller.abort())
  return controller.signal
}
