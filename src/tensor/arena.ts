import { MemoryError, OpError } from '../errors.ts'
import { addon, type StorageHandle } from '../native/load.ts'
import { type DType, expectShape } from './dtype.ts'
import { allocate, bytesOn, type Device, Tensor } from './tensor.ts'

/** Every tensor of an arena begins on such a boundary: a cache line, and what the GPU's copy engine asks for. */
const alignment = 256

/**
 * A stack of tensors: `empty` pushes, `release(mark)` pops everything above the mark. What is `temporary` lies at the other
 * end, so that it can go while what was made after it stays. Two steps of the same shape use the same addresses. On meta it
 * only counts, so the arena of a step's dry run tells the bytes of the real one exactly.
 */
export class Arena implements Device {
  readonly kind: Device['kind']
  readonly activations: Device['activations']
  readonly rowAlignment: number
  /** The most bytes that were in use at once, at both ends together. */
  peak = 0
  private readonly capacity: number
  private readonly storage: StorageHandle | undefined
  private top = 0
  private temporaryBytes = 0
  private isTemporary = false

  /**
   * @param device where the memory is
   * @param capacity bytes; without a limit only on meta
   * @throws {OpError} `E_OP`: `capacity` is no such number.
   * @throws {MemoryError} `E_GPU_OOM`: the GPU has no `capacity` bytes left.
   */
  constructor({ kind, activations, rowAlignment }: Device, capacity = Number.POSITIVE_INFINITY) {
    if (!(capacity >= 0 && (kind === 'meta' || Number.isFinite(capacity)))) {
      throw new OpError('E_OP', 'Arena: no arena has this capacity', {
        expected: `a number of bytes${kind === 'meta' ? ', or Infinity' : ''}`,
        found: String(capacity),
      })
    }
    this.kind = kind
    this.activations = activations
    this.rowAlignment = rowAlignment
    this.capacity = Math.floor(capacity / alignment) * alignment
    this.storage = allocate(kind, capacity)
  }

  empty(shape: readonly number[], dtype: DType): Tensor {
    expectShape('empty', shape, dtype)
    const bytes = Math.ceil(bytesOn(this, shape, dtype) / alignment) * alignment
    const inUse = this.top + this.temporaryBytes + bytes
    if (inUse > this.capacity) {
      throw new MemoryError('E_MEMORY', 'the arena is full', {
        expected: `at most ${this.capacity} bytes, as planned`,
        found: `${inUse} bytes with a tensor [${shape.join(', ')}] ${dtype}`,
        remedy: 'use a smaller micro-batch or sequence length',
      })
    }
    this.peak = Math.max(this.peak, inUse)
    return new Tensor(this, shape, dtype, { storage: this.storage, byteOffset: this.take(bytes) })
  }

  private take(bytes: number): number {
    if (this.isTemporary) {
      this.temporaryBytes += bytes
      return this.capacity - this.temporaryBytes
    }
    this.top += bytes
    return this.top - bytes
  }

  /** Runs `make`; the tensors that it makes are given back with the next release, of whatever mark. */
  temporary<Result>(make: () => Result): Result {
    const before = this.isTemporary
    this.isTemporary = true
    try {
      return make()
    } finally {
      this.isTemporary = before
    }
  }

  mark(): number {
    return this.top
  }

  /** Gives back what was made since the mark, and all that is temporary. */
  release(mark: number): void {
    this.top = mark
    this.releaseTemporary()
  }

  releaseTemporary(): void {
    this.temporaryBytes = 0
  }

  /** Gives the memory back; the arena cannot be used afterwards. */
  dispose(): void {
    if (this.storage) addon().release(this.storage.slot)
  }
}
