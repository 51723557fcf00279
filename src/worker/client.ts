import { Worker } from 'node:worker_threads'
import { AbortError, LoramError, reviveError } from '../errors.ts'
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
   */
  call<M extends keyof Methods>(
    method: M,
    options: OptionsOf<M>,
    { signal, onEvent = () => {} }: { signal?: AbortSignal | undefined; onEvent?: (event: EventOf<M>) => void } = {},
  ): Promise<ResultOf<M>> {
    if (signal?.aborted) return Promise.reject(new AbortError(`${method} was aborted before it began`))
    if (this.failure) return Promise.reject(this.failure)
    const abort = new SharedArrayBuffer(4)
    const stop = () => Atomics.store(new Int32Array(abort), 0, 1)
    signal?.addEventListener('abort', stop, { once: true })
    const id = this.nextId++
    this.worker.ref()
    return new Promise<ResultOf<M>>((resolve, reject) => {
      this.pending.set(id, { resolve: resolve as Pending['resolve'], reject, onEvent: onEvent as Pending['onEvent'] })
      this.worker.postMessage({ id, method, options, abort } satisfies Request)
    }).finally(() => {
      signal?.removeEventListener('abort', stop)
      this.pending.delete(id)
      if (this.pending.size === 0) this.worker.unref()
    })
  }

  /** Ends the thread and frees what it holds; requests that are under way fail. */
  async close(): Promise<void> {
    await this.worker.terminate()
  }

  private receive(response: Response): void {
    const pending = this.pending.get(response.id)
    if (!pending) return
    if ('event' in response) pending.onEvent(response.event)
    else if ('error' in response) pending.reject(reviveError(response.error))
    else pending.resolve(response.result)
  }

  private fail(error: Error): void {
    this.failure ??= error
    for (const { reject } of this.pending.values()) reject(error)
  }
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
