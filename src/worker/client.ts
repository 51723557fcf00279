import { setMaxListeners } from 'node:events'
import { inspect } from 'node:util'
import { Worker } from 'node:worker_threads'
import { AbortError, ConfigError, LoramError, reviveError } from '../errors.ts'
import type { methods } from './methods.ts'
import type { Request, Response } from './protocol.ts'

type Methods = typeof methods
type OptionsOf<M extends keyof Methods> = Parameters<Methods[M]>[0]
type ResultOf<M extends keyof Methods> = Awaited<ReturnType<Methods[M]>>
type EventOf<M extends keyof Methods> = Parameters<Parameters<Methods[M]>[1]['emit']>[0]

interface Pending {
  resolve(result: unknown): void
  reject(error: Error): void
  onEvent(event: unknown): void
  /** Has the method stop at the end of its current step. */
  stop(): void
}

const threadFile = new URL('./thread.js', import.meta.url)

/** A thread that runs methods of `methods.ts`, so that the caller's event loop stays free. */
export class WorkerClient {
  private readonly worker: Worker
  private readonly pending = new Map<number, Pending>()
  private nextId = 0
  /** Why the thread has ended. */
  private failure: Error | undefined

  constructor() {
    this.worker = new Worker(threadFile)
    this.worker.on('message', (response: Response) => this.receive(response))
    this.worker.on('error', (error) => this.fail(error))
    this.worker.on('exit', (code) => this.fail(new LoramError('E_WORKER', `the worker thread ended with code ${code}`)))
    this.worker.unref()
  }

  get isAlive(): boolean {
    return this.failure === undefined
  }

  /**
   * Runs a method in the thread.
   * @throws {AbortError} the signal was aborted; the method stopped at the end of its current step
   * @throws what `onEvent` throws; the method is stopped too
   */
  async call<M extends keyof Methods>(
    method: M,
    options: OptionsOf<M>,
    { signal, onEvent = () => {} }: { signal?: AbortSignal | undefined; onEvent?: (event: EventOf<M>) => void } = {},
  ): Promise<ResultOf<M>> {
    requireSignal(signal)
    if (signal?.aborted) throw new AbortError(`${method} was aborted before it began`)
    if (this.failure) throw this.failure
    const abort = new SharedArrayBuffer(4)
    const stop = () => Atomics.store(new Int32Array(abort), 0, 1)
    if (signal) {
      setMaxListeners(0, signal) // any number of calls may share one, and none listens for longer than it lasts
      signal.addEventListener('abort', stop, { once: true })
    }
    const id = this.nextId++
    this.worker.ref()
    return new Promise<ResultOf<M>>((resolve, reject) => {
      const callbacks = { resolve, reject, onEvent, stop } as Pending
      this.pending.set(id, callbacks)
      this.worker.postMessage({ id, method, options, abort } satisfies Request)
    }).finally(() => {
      signal?.removeEventListener('abort', stop)
      this.pending.delete(id)
      if (this.pending.size === 0) this.worker.unref()
    })
  }

  /** Ends the thread and frees what it holds; requests that are under way fail. */
  async close(): Promise<void> {
    this.fail(new LoramError('E_WORKER', 'the model cannot be used: it was closed', { remedy: 'load the model again' }))
    await this.worker.terminate()
  }

  private receive(response: Response): void {
    const pending = this.pending.get(response.id)
    if (!pending) return
    if ('event' in response) this.emit(pending, response.event)
    else if ('error' in response) pending.reject(reviveError(response.error))
    else pending.resolve(response.result)
  }

  private emit(pending: Pending, event: unknown): void {
    try {
      pending.onEvent(event)
    } catch (error) {
      // Rejects when the method has ended, so that it leaves its files as an abort leaves them
      const { reject, stop } = pending
      const settle = () => reject(error as Error)
      Object.assign(pending, { onEvent: () => {}, resolve: settle, reject: settle })
      stop()
    }
  }

  private fail(error: Error): void {
    this.failure ??= error
    for (const { reject } of this.pending.values()) reject(this.failure)
  }
}

/** @throws {ConfigError} `E_CONFIG` */
export function requireSignal(signal: unknown): void {
  if (signal === undefined || signal instanceof AbortSignal) return
  throw new ConfigError('E_CONFIG', 'the option signal does not fit', {
    field: 'signal',
    expected: 'an AbortSignal',
    found: inspect(signal),
  })
}

/** Runs one method in a thread of its own. */
export async function runInWorker<M extends keyof Methods>(
  method: M,
  options: OptionsOf<M>,
  callbacks: { signal?: AbortSignal | undefined; onEvent?: (event: EventOf<M>) => void } = {},
): Promise<ResultOf<M>> {
  const client = new WorkerClient()
  try {
    return await client.call(method, options, callbacks)
  } finally {
    await client.close()
  }
}
