import { AbortError, type PlainError } from '../errors.ts'

/** From the caller to its worker thread: run a method of `methods.ts`. */
export interface Request {
  id: number
  method: string
  options: unknown
  /** One Int32; becomes 1 when the caller aborts. Shared memory, because the thread is busy when that happens. */
  abort: SharedArrayBuffer
}

/** From the worker thread to its caller: any number of events, then a result or an error. */
export type Response = { id: number } & ({ event: unknown } | { result: unknown } | { error: PlainError })

/** What a long piece of work looks at between its steps. An AbortSignal is one. */
export interface StopSignal {
  readonly aborted: boolean
}

export const neverAborted: StopSignal = { aborted: false }

/** @throws {AbortError} the caller wants `what` to stop */
export function stopIfAborted(signal: StopSignal, what: string): void {
  if (signal.aborted) throw new AbortError(`${what} was aborted`)
}

/** What a method is given besides its options. */
export interface Context<Event> {
  emit(event: Event): void
  readonly signal: StopSignal
}
