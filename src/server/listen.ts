import { once } from 'node:events'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { createAdaptorServer } from '@hono/node-server'
import { ConfigError } from '../errors.ts'
import type { WorkerClient } from '../worker/client.ts'
import { type AppOptions, createApp } from './app.ts'
import { EngineClient } from './engineClient.ts'

export interface Listening {
  /** Where it listens, such as `http://127.0.0.1:8000`. */
  url: string
  /** Takes no more requests, and resolves when none is left. */
  close(): Promise<void>
}

export interface ListenOptions extends Omit<AppOptions, 'engine' | 'isOpen' | 'ending'> {
  /** Where the engine is. */
  worker: WorkerClient
  maxSequences: number
  maxQueue: number
  host: string
  port: number
  /** Seconds in which a client must have sent its request. */
  requestTimeout: number
  /** Seconds that running requests have left when the server closes. */
  shutdownTimeout: number
}

/** Between two looks for clients that take too long to send their request. */
const checkMilliseconds = 1000

/** Within which requests answer that they were ended, and connections must be gone. */
const lastMilliseconds = 1000

/**
 * Serves the app.
 * @throws {ConfigError} `E_CONFIG`: the port is taken, or the address is not this machine's
 */
export async function listen(options: ListenOptions): Promise<Listening> {
  const { host, port, requestTimeout, shutdownTimeout } = options
  const ending = new AbortController()
  const isOpen = () => server.listening
  const engine = new EngineClient(options.worker, options)
  const app = createApp({ ...options, engine, isOpen, ending: ending.signal })
  const server = createAdaptorServer({
    fetch: app.fetch,
    overrideGlobalObjects: false,
    serverOptions: {
      requestTimeout: 1000 * requestTimeout,
      headersTimeout: 1000 * requestTimeout,
      connectionsCheckingInterval: checkMilliseconds,
    },
  }) as Server
  server.on('request', (_, response) => {
    // one that is kept alive would keep a closing server waiting
    response.once('close', () => isOpen() || setImmediate(() => server.closeIdleConnections()))
  })
  server.listen(port, host)
  await once(server, 'listening').catch((cause: NodeJS.ErrnoException) => {
    const field = cause.code === 'EADDRINUSE' || cause.code === 'EACCES' ? 'port' : 'host'
    throw new ConfigError('E_CONFIG', 'the server cannot listen', { field, found: cause.message, cause })
  })
  return {
    url: urlOf(server.address() as AddressInfo),
    async close() {
      const closed = once(server, 'close')
      server.close()
      const gone = new AbortController()
      endSlowly(gone.signal).catch(() => {}) // aborted because nothing is left
      await closed
      gone.abort()
    },
  }

  async function endSlowly(signal: AbortSignal): Promise<void> {
    await setTimeout(1000 * shutdownTimeout, undefined, { signal })
    ending.abort()
    await setTimeout(lastMilliseconds, undefined, { signal })
    server.closeAllConnections()
  }
}

const urlOf = ({ address, family, port }: AddressInfo) =>
  `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
