import { MemoryError } from '../errors.ts'
import { addon, type StorageHandle } from '../native/load.ts'
import type { DType } from './dtype.ts'
import { allocate, bytesOn, type Device, Tensor } from './tensor.ts'

/** Every tensor of an arena begins on such a boundary: a cache line, and what the GPU's copy engine asks for. */
const alignment = 256

/**
 * A stack of tensors: `empty` pushes, `release(mark)` pops everything above the mark. Two steps of the same shape use the
 * same addresses. On meta it only counts, so the arena of a step's dry run tells the bytes of the real one exactly.
 */
export class Arena implements Device {
  readonly kind: Device['kind']
  readonly activations: Device['activations']
  readonly rowAlignment: number
  /** The most bytes that were in use at once. */
  peak = 0
  private readonly capacity: number
  private readonly storage: StorageHandle | undefined
  private top = 0

  /**
   * @param device where the memory is
   * @throws {MemoryError} `E_GPU_OOM`: the GPU has no `capacity` bytes left.
   */
  constructor({ kind, activations, rowAlignment }: Device, capacity = Number.POSITIVE_INFINITY) {
    this.kind = kind
    this.activations = activations
    this.rowAlignment = rowAlignment
    this.capacity = capacity
    this.storage = allocate(kind, capacity)
  }

  empty(shape: readonly number[], dtype: DType): Tensor {
    const byteOffset = this.top
    const end = byteOffset + Math.ceil(bytesOn(this, shape, dtype) / alignment) * alignment
    if (end > this.capacity) {
      throw new MemoryError('E_MEMORY', 'the arena is full', {
        expected: `at most ${this.capacity} bytes, as planned`,
        found: `${end} bytes for a tensor [${shape.join(', ')}] ${dtype}`,
        remedy: 'use a smaller micro-batch or sequence length',
      })
    }
    this.top = end
    this.peak = Math.max(this.peak, end)
    return new Tensor(this, shape, dtype, { storage: this.storage, byteOffset })
  }

  mark(): number {
    return this.top
  }

  release(mark: number): void {
    this.top = mark
  }

  /** The peak as the native side saw it: the end of the furthest tensor that was ever made. */
  get measuredPeak(): number {
    return this.storage ? Math.ceil(addon().highWater(this.storage) / alignment) * alignment : this.peak
  }

  /** Gives the memory back; the arena cannot be used afterwards. */
  dispose(): void {
    if (this.storage) addon().release(this.storage)
  }
}
