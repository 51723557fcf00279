import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { HttpBindings } from '@hono/node-server'
import type { Context, MiddlewareHandler } from 'hono'
import { ApiError } from './apiError.ts'
import type { Metrics } from './metrics.ts'

export type Env = { Bindings: HttpBindings }

/** Room for a context of some hundred thousand tokens, as ids or as text. */
const maxBodyBytes = 2 ** 20

/**
 * Refuses a body that is too long: at once where its length is given, else when so much has come. Hono's own `bodyLimit` makes
 * a Request of the adapter's, which Node can only where the adapter replaces the global one.
 */
export const limitedBody: MiddlewareHandler<Env> = async (c, next) => {
  if (Number(c.req.header('Content-Length') ?? 0) > maxBodyBytes) throw tooLong()
  if (c.req.header('Transfer-Encoding') !== undefined) {
    const { url, method, headers } = c.req.raw
    c.req.raw = new Request(url, { method, headers, body: await limitedBytes(c.env.incoming) })
  }
  await next()
}

async function limitedBytes(incoming: IncomingMessage): Promise<Buffer<ArrayBuffer>> {
  const chunks: Buffer[] = []
  let bytes = 0
  try {
    // the answer needs the connection, also where the rest is not read
    for await (const chunk of incoming.iterator({ destroyOnReturn: false })) {
      bytes += chunk.length
      if (bytes > maxBodyBytes) break
      chunks.push(chunk)
    }
  } catch {
    throw new ApiError(400, 'the body is cut off')
  }
  if (bytes > maxBodyBytes) throw tooLong()
  return Buffer.concat(chunks)
}

const tooLong = () => new ApiError(413, `a request may have ${maxBodyBytes} bytes`)

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
