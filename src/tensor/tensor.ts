import { addon, type StorageHandle, type TensorHandle } from '../native/load.ts'
import { bytesPerElement, type DType, dtypes, elements } from './dtype.ts'

export type DeviceKind = 'cpu' | 'cuda' | 'meta'

/**
 * A place where tensors are made. `cpu` holds data; `meta` only shapes, so a computation on it counts bytes and does
 * nothing else. An arena is a device too: what is computed from tensors in an arena lies in that arena.
 */
export interface Device {
  readonly kind: DeviceKind
  /** A tensor whose values are not set. */
  empty(shape: readonly number[], dtype: DType): Tensor
}

/** The JavaScript values of a tensor of each dtype; 16-bit floats come as their raw bits. */
export type TensorData = Float32Array | Int32Array | BigInt64Array | Uint16Array | Uint8Array

const arrayTypes = {
  f32: Float32Array,
  bf16: Uint16Array,
  f16: Uint16Array,
  u8: Uint8Array,
  i32: Int32Array,
  i64: BigInt64Array,
} as const satisfies Record<DType, unknown>

/** Memory of a device that tensors look into; `undefined` storage is meta's. */
export interface Memory {
  readonly storage: StorageHandle | undefined
  readonly byteOffset: number
}

/** A row-major, contiguous array on a device. It owns no data of its own; views share memory. */
export class Tensor {
  readonly device: Device
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly memory: Memory
  /** What ops take; `undefined` on meta. */
  readonly handle: TensorHandle | undefined

  constructor(device: Device, shape: readonly number[], dtype: DType, memory: Memory) {
    this.device = device
    this.dtype = dtype
    this.shape = shape
    this.memory = memory
    if (memory.storage) {
      this.handle = addon().view(memory.storage, memory.byteOffset, dtypes.indexOf(dtype), ...shape)
    }
  }

  get elements(): number {
    return elements(this.shape)
  }

  get bytes(): number {
    return this.elements * bytesPerElement[this.dtype]
  }

  /** The same values under another shape of as many elements. */
  reshape(shape: readonly number[]): Tensor {
    return new Tensor(this.device, shape, this.dtype, this.memory)
  }

  /** Elements `[from, from + elements(shape))` of the flat tensor, as a view. */
  slice(from: number, shape: readonly number[]): Tensor {
    const byteOffset = this.memory.byteOffset + from * bytesPerElement[this.dtype]
    return new Tensor(this.device, shape, this.dtype, { storage: this.memory.storage, byteOffset })
  }

  /** Rows `[from, to)` of the first dimension, as a view. */
  rows(from: number, to: number): Tensor {
    const [, ...rest] = this.shape
    return this.slice(from * elements(rest), [to - from, ...rest])
  }

  /** Copies host bytes into the tensor from byte `byteOffset` on. */
  write(data: NodeJS.TypedArray, byteOffset = 0): this {
    if (this.handle) addon().upload(this.handle, byteOffset, bytesOf(data))
    return this
  }

  /** A copy of the tensor's values on the host. Waits for the device. */
  read(): TensorData {
    const data = new arrayTypes[this.dtype](this.elements)
    if (this.handle) addon().download(this.handle, 0, bytesOf(data))
    return data
  }

  /** The only element of a one-element tensor. */
  item(): number {
    return Number(this.read()[0])
  }

  zero(): this {
    if (this.handle) addon().fill(this.handle, 0)
    return this
  }

  /** Gives the tensor's own memory back now instead of at the next garbage collection; it cannot be used afterwards. */
  dispose(): void {
    if (this.memory.storage) addon().release(this.memory.storage, this.handle)
  }

  /** A copy on the same device. */
  clone(): Tensor {
    return this.device.empty(this.shape, this.dtype).write(this.read())
  }
}

const bytesOf = (data: NodeJS.TypedArray) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

export function zeros(device: Device, shape: readonly number[], dtype: DType): Tensor {
  return device.empty(shape, dtype).zero()
}

/** A tensor with the given values; the dtype follows from the array's type (f32, i32, u8, i64). */
export function tensorFrom(
  device: Device,
  data: Float32Array | Int32Array | Uint8Array | BigInt64Array,
  shape: readonly number[] = [data.length],
): Tensor {
  const dtype =
    data instanceof Float32Array
      ? 'f32'
      : data instanceof Int32Array
        ? 'i32'
        : data instanceof Uint8Array
          ? 'u8'
          : 'i64'
  return device.empty(shape, dtype).write(data)
}
