import { MemoryError } from '../errors.ts'
import { type Device, type Tensor, tensorFrom } from '../tensor/tensor.ts'
import { outFeatures } from './linear.ts'
import type { Model } from './model.ts'

/** One layer's keys and values in a forward pass [rows, kv heads * head dim]: all so far, and where new ones go. */
export interface LayerCache {
  readonly keys: Tensor
  readonly values: Tensor
  /** The rows of `keys` and `values` that the pass writes [tokens]. */
  readonly newRows: Tensor
  /** Where the keys of each sequence begin and end, as attention takes it. */
  readonly bounds: Tensor
}

/** What a forward pass over the next tokens of some sequences needs besides their ids. */
export interface CachePass {
  readonly positions: Int32Array
  /** Where the tokens of each sequence begin and end. */
  readonly bounds: Int32Array
  readonly layers: readonly LayerCache[]
}

/** Keys and values of sequences that are being generated, a slot for each, so that each token goes through the model once. */
export class KvCache {
  /** Tokens that a slot holds. */
  readonly capacity: number
  private readonly lengths: number[]
  private readonly layers: { keys: Tensor; values: Tensor }[]

  constructor({ device, layers }: Model, slots: number, capacity: number) {
    this.capacity = capacity
    this.lengths = new Array(slots).fill(0)
    this.layers = layers.map(({ k, v }) => ({
      keys: device.empty([slots * capacity, outFeatures(k)], device.activations),
      values: device.empty([slots * capacity, outFeatures(v)], device.activations),
    }))
  }

  /** Tokens in a slot. */
  length(slot: number): number {
    return this.lengths[slot]!
  }

  clear(slot: number): void {
    this.lengths[slot] = 0
  }

  /**
   * Makes room for the next tokens of some slots, before a forward pass over them.
   * @param added how many tokens by slot, in ascending order of slots
   * @param arena holds the pass's indices
   * @throws {MemoryError} `E_MEMORY`: a sequence would be longer than its slot.
   */
  advance(added: readonly (readonly [slot: number, tokens: number])[], arena: Device): CachePass {
    const first = added[0]![0] * this.capacity
    const positions: number[] = []
    const newRows: number[] = []
    const queryBounds = [0]
    const keyBounds = [0]
    for (const [slot, tokens] of added) {
      const row = slot * this.capacity - first
      if (row > 0) {
        // attention takes sequences without gaps: what lies between two slots is one without queries
        queryBounds.push(newRows.length)
        keyBounds.push(row)
      }
      const from = this.length(slot)
      const to = from + tokens
      this.requireRoom(to)
      for (let position = from; position < to; position++) {
        positions.push(position)
        newRows.push(row + position)
      }
      queryBounds.push(newRows.length)
      keyBounds.push(row + to)
      this.lengths[slot] = to
    }
    const end = first + keyBounds.at(-1)!
    const indices = {
      newRows: tensorFrom(arena, Int32Array.from(newRows)),
      bounds: tensorFrom(arena, Int32Array.from(keyBounds)),
    }
    return {
      positions: Int32Array.from(positions),
      bounds: Int32Array.from(queryBounds),
      layers: this.layers.map(({ keys, values }) => ({
        keys: keys.rows(first, end),
        values: values.rows(first, end),
        ...indices,
      })),
    }
  }

  private requireRoom(tokens: number): void {
    if (tokens <= this.capacity) return
    throw new MemoryError('E_MEMORY', 'the key-value cache is full', {
      expected: `at most ${this.capacity} tokens`,
      found: String(tokens),
      remedy: 'generate fewer tokens or shorten the prompt',
    })
  }

  dispose(): void {
    for (const { keys, values } of this.layers) {
      keys.dispose()
      values.dispose()
    }
  }
}
