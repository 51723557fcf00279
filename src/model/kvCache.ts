import { MemoryError } from '../errors.ts'
import { type Tensor, tensorFrom } from '../tensor/tensor.ts'
import { outFeatures } from './linear.ts'
import type { Model } from './model.ts'

/** One layer's keys and values in a forward pass [tokens, kv heads * head dim]: where new ones go, and all so far. */
export interface LayerCache {
  readonly newKeys: Tensor
  readonly newValues: Tensor
  readonly keys: Tensor
  readonly values: Tensor
  /** Where the sequence's keys begin and end, as attention takes it. */
  readonly bounds: Tensor
}

/** Keys and values of a sequence that is being generated, so that each token goes through the model once. */
export class KvCache {
  readonly capacity: number
  length = 0
  private added = 0
  private readonly layers: { keys: Tensor; values: Tensor }[]
  private readonly bounds: Tensor

  constructor({ device, layers }: Model, capacity: number) {
    this.capacity = capacity
    this.layers = layers.map(({ k, v }) => ({
      keys: device.empty([capacity, outFeatures(k)], device.activations),
      values: device.empty([capacity, outFeatures(v)], device.activations),
    }))
    this.bounds = tensorFrom(device, Int32Array.of(0, 0))
  }

  /**
   * Makes room for the next `count` tokens, before a forward pass over them.
   * @throws {MemoryError} `E_MEMORY`: the sequence would be longer than the cache.
   */
  advance(count: number): void {
    if (this.length + count > this.capacity) {
      throw new MemoryError('E_MEMORY', 'the key-value cache is full', {
        expected: `at most ${this.capacity} tokens`,
        found: String(this.length + count),
        remedy: 'generate fewer tokens or shorten the prompt',
      })
    }
    this.length += count
    this.added = count
    this.bounds.write(Int32Array.of(0, this.length))
  }

  layer(index: number): LayerCache {
    const { keys, values } = this.layers[index]!
    const from = this.length - this.added
    return {
      newKeys: keys.rows(from, this.length),
      newValues: values.rows(from, this.length),
      keys: keys.rows(0, this.length),
      values: values.rows(0, this.length),
      bounds: this.bounds,
    }
  }

  dispose(): void {
    for (const { keys, values } of this.layers) {
      keys.dispose()
      values.dispose()
    }
    this.bounds.dispose()
  }
}
