import type { CompletionEvent, CompletionRequest } from '../infer/scheduler.ts'
import type { WorkerClient } from '../worker/client.ts'
import { EventLog } from '../worker/eventLog.ts'
import { ApiError } from './apiError.ts'

/** Seconds after which a client that found the queue full may try again. */
const retryAfter = 1

/** The engine in its thread, and how many completions it has to do. */
export class EngineClient {
  private readonly worker: WorkerClient
  private readonly maxSequences: number
  private readonly maxQueue: number
  private unfinished = 0

  constructor(worker: WorkerClient, { maxSequences, maxQueue }: { maxSequences: number; maxQueue: number }) {
    this.worker = worker
    this.maxSequences = maxSequences
    this.maxQueue = maxQueue
  }

  /** Completions that are generated now. */
  get running(): number {
    return Math.min(this.unfinished, this.maxSequences)
  }

  /** Completions that wait for one of these to end. */
  get waiting(): number {
    return this.unfinished - this.running
  }

  get isAlive(): boolean {
    return this.worker.isAlive
  }

  /**
   * Completes several prompts side by side. Whoever stops to iterate ends them.
   * @throws {ApiError} 429: there are too many to do; 400: there will always be
   */
  async *complete(requests: readonly CompletionRequest[], signal: AbortSignal): AsyncGenerator<CompletionEvent, void> {
    this.admit(requests.length)
    const left = new AbortController()
    const events = new EventLog<CompletionEvent>()
    const done = this.worker.call('complete', requests, {
      signal: AbortSignal.any([signal, left.signal]),
      onEvent: (event) => events.push(event),
    })
    const end = () => {
      this.unfinished -= requests.length // not where the events end, because their reader may be slow
      events.end()
    }
    done.then(end, end)
    try {
      yield* events
      await done
    } finally {
      left.abort()
    }
  }

  private admit(count: number): void {
    const most = this.maxSequences + this.maxQueue
    if (count > most) throw new ApiError(400, `a request may ask for ${most} completions, not for ${count}`)
    if (this.unfinished + count > most) {
      const headers = { 'Retry-After': String(retryAfter) }
      throw new ApiError(429, 'too many requests wait already', { code: 'queue_full', headers })
    }
    this.unfinished += count
  }
}
