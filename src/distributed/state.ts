import type { Ranks } from '../ranks.ts'

/** How often a rank met the others, whether it waits for them now, and whether all must stop. */
const fields = { round: 0, waits: 1, stopped: 2 }

/** What the training thread of a rank and the thread that watches it tell each other while the first is busy. */
export class State {
  readonly memory: SharedArrayBuffer
  private readonly view: Int32Array<SharedArrayBuffer>

  constructor(memory = new SharedArrayBuffer(4 * Object.keys(fields).length)) {
    this.memory = memory
    this.view = new Int32Array(memory)
  }

  get round(): number {
    return Atomics.load(this.view, fields.round)
  }

  get waits(): boolean {
    return Atomics.load(this.view, fields.waits) === 1
  }

  get stopped(): boolean {
    return Atomics.load(this.view, fields.stopped) === 1
  }

  /** @param patiently for as long as it takes */
  enter(patiently: boolean): void {
    Atomics.add(this.view, fields.round, 1)
    Atomics.store(this.view, fields.waits, patiently ? 0 : 1)
  }

  leave(): void {
    Atomics.store(this.view, fields.waits, 0)
  }

  stop(): void {
    Atomics.store(this.view, fields.stopped, 1)
    Atomics.notify(this.view, fields.stopped)
  }

  /** Blocks until all must stop, at most so long; whether they must. */
  awaitStop(milliseconds: number): boolean {
    Atomics.wait(this.view, fields.stopped, 0, milliseconds)
    return this.stopped
  }
}

/**
 * Says whether more time than that passed since it was last asked: then this process stood still, and what others said meanwhile is
 * still to be read.
 */
export function standstills(milliseconds: number): () => boolean {
  let asked = performance.now()
  return () => {
    const before = asked
    asked = performance.now()
    return asked - before > milliseconds
  }
}

/** What the thread that watches a rank starts with. */
export interface Watched {
  ranks: Ranks
  /** Of loram and of what carries collectives: the same on all ranks. */
  version: string
  /** What the leader hands out. */
  id: string
  /** How long ranks wait for each other in the beginning. */
  meetMilliseconds: number
  /** How long a rank may be silent, or keep the others waiting. */
  patienceMilliseconds: number
}
