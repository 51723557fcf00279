import { type Pairs, usePairs } from '../lora/attach.ts'
import { workBytes } from '../memory/measure.ts'
import { KvCache } from '../model/kvCache.ts'
import { logitsOf, type Model, modelForward } from '../model/model.ts'
import { gatherRows } from '../native/gather.ts'
import { Arena } from '../tensor/arena.ts'
import { allOrNothing, tensorFrom } from '../tensor/tensor.ts'
import { toDevice } from '../train/step.ts'

/** A sequence of tokens that the engine continues. */
export interface Sequence {
  /** The prompt, and what `take` added to it. */
  readonly ids: readonly number[]
  readonly adapter: Pairs
  /** The first position whose logits `take` wants; those of the last position it always gets. */
  readonly firstLogits: number
  readonly finished: boolean
  /** Takes the logits [vocab] of what follows position `position`. After the last one it adds a token, or is finished. */
  take(logits: Float32Array, position: number): void
}

/** A prompt goes through the model in pieces of at most this many tokens, which bounds the memory it takes. */
const prefillTokens = 512

/** Logits exist for this many values at once: 16 MiB. */
const logitElements = 2 ** 22

/**
 * Sequences that are decoded in one pass. Up to eight rows are multiplied on the CPU in the order in which one is, so that
 * an answer has the same bits whatever else is generated beside it. A GPU promises no such thing, and wants more rows.
 */
const decodedTogether = { f32: 8, bf16: Number.POSITIVE_INFINITY }

/** Part of a sequence that goes through the model: `tokens` more of `sequence`, whose cache is `slot`. */
interface Piece {
  readonly sequence: Sequence
  readonly slot: number
  readonly tokens: number
}

/**
 * Continuous batching (Orca, Yu et al., OSDI 2022): sequences come and go between steps, each with an adapter of its own on
 * one base model. A step takes a piece of one prompt, and decodes a token of every sequence whose prompt is done.
 */
export class Engine {
  private readonly model: Model
  private readonly cache: KvCache
  private readonly arena: Arena
  private readonly free: number[]
  private waiting: Sequence[] = []
  /** By slot; those that came first come first. */
  private readonly running = new Map<number, Sequence>()

  /**
   * @param slots sequences at once
   * @param capacity tokens of the longest sequence
   * @param adapters those that sequences may have
   */
  constructor(model: Model, slots: number, capacity: number, adapters: readonly Pairs[]) {
    this.model = model
    this.free = Array.from({ length: slots }, (_, i) => slots - 1 - i)
    const bytes = adapters.map((adapter) => {
      usePairs(model, adapter)
      return workBytes(model, (twin, meta) => largestPasses(twin, meta, slots, capacity, adapter))
    })
    const { arena, cache } = allOrNothing(() => ({
      arena: new Arena(model.device, Math.max(...bytes)),
      cache: new KvCache(model, slots, capacity),
    }))
    this.arena = arena
    this.cache = cache
  }

  get isIdle(): boolean {
    return this.waiting.length + this.running.size === 0
  }

  /** Takes a sequence in. It waits until a slot is free, and leaves when it is finished, which may be at any time. */
  add(sequence: Sequence): void {
    this.waiting.push(sequence)
  }

  step(): void {
    this.arena.release(0) // a step that failed left something
    this.fillSlots()
    const prompt = this.pieces().find(({ tokens }) => tokens > 1)
    if (prompt) this.forward([prompt])
    for (const group of this.decodeGroups()) this.forward(group)
    this.emptySlots()
  }

  dispose(): void {
    this.arena.dispose()
    this.cache.dispose()
  }

  private fillSlots(): void {
    this.emptySlots()
    this.waiting = this.waiting.filter(({ finished }) => !finished)
    while (this.free.length > 0 && this.waiting.length > 0) {
      const slot = this.free.pop()!
      this.cache.clear(slot)
      this.running.set(slot, this.waiting.shift()!)
    }
  }

  private emptySlots(): void {
    for (const [slot, { finished }] of this.running) {
      if (!finished) continue
      this.running.delete(slot)
      this.free.push(slot)
    }
  }

  private pieces(): Piece[] {
    return Array.from(this.running)
      .filter(([, { finished }]) => !finished)
      .map(([slot, sequence]) => ({
        sequence,
        slot,
        tokens: Math.min(sequence.ids.length - this.cache.length(slot), prefillTokens),
      }))
  }

  /** Sequences that a token is decoded of, by adapter, and at most so many as go together. */
  private decodeGroups(): Piece[][] {
    const pieces = this.pieces().filter(({ tokens }) => tokens === 1)
    const most = decodedTogether[this.model.device.activations]
    const groups: Piece[][] = []
    for (const piece of pieces.sort((a, b) => a.slot - b.slot)) {
      const { adapter } = piece.sequence
      const group = groups.find((group) => group[0]!.sequence.adapter === adapter && group.length < most)
      if (group) group.push(piece)
      else groups.push([piece])
    }
    return groups
  }

  private forward(pieces: readonly Piece[]): void {
    usePairs(this.model, pieces[0]!.sequence.adapter)
    forward(this.model, this.arena, this.cache, pieces)
  }
}

/** Runs pieces of sequences, slots ascending, and gives each sequence the logits it wants. */
function forward(model: Model, arena: Arena, cache: KvCache, pieces: readonly Piece[]): void {
  const start = arena.mark()
  const pass = cache.advance(
    pieces.map(({ slot, tokens }) => [slot, tokens]),
    arena,
  )
  const rows = pieces.flatMap(({ sequence, slot, tokens }) =>
    Array.from({ length: tokens }, (_, i) => ({ sequence, position: cache.length(slot) - tokens + i })),
  )
  const ids = Int32Array.from(rows, ({ sequence, position }) => sequence.ids[position]!)
  const x = modelForward(model, arena, toDevice(arena, { ids, ...pass }), pass.layers)
  const wanted = Array.from(rows.keys()).filter((row) => {
    const { sequence, position } = rows[row]!
    return position >= sequence.firstLogits || position === sequence.ids.length - 1
  })
  const { vocabSize } = model.config
  const chunk = Math.max(1, Math.floor(logitElements / vocabSize))
  for (let from = 0; from < wanted.length; from += chunk) {
    const mark = arena.mark()
    const some = wanted.slice(from, from + chunk)
    const logits = logitsOf(model, gatherRows(x, tensorFrom(arena, Int32Array.from(some)))).read() as Float32Array
    for (const [i, row] of some.entries()) {
      const { sequence, position } = rows[row]!
      sequence.take(logits.subarray(i * vocabSize, (i + 1) * vocabSize), position)
    }
    arena.release(mark)
  }
  arena.release(start)
}

/** The passes that take the most memory: a whole piece of a prompt with all its logits, and a token of every slot. */
function largestPasses(model: Model, arena: Arena, slots: number, capacity: number, adapter: Pairs): void {
  const tokens = Math.min(capacity, prefillTokens)
  const ids = new Array(tokens).fill(0)
  const sequence: Sequence = { ids, adapter, firstLogits: 0, finished: false, take() {} }
  const cache = new KvCache(model, slots, capacity)
  forward(model, arena, cache, [{ sequence, slot: 0, tokens }])
  cache.clear(0)
  forward(
    model,
    arena,
    cache,
    Array.from({ length: slots }, (_, slot) => ({ sequence, slot, tokens: 1 })),
  )
}
