import { OpError } from '../errors.ts'
import { onTensors } from '../native/call.ts'
import { pass } from '../native/frame.ts'
import { onDevice } from '../native/gpuErrors.ts'
import { type Addon, addon, type StorageHandle } from '../native/load.ts'
import { bytesPerElement, type DType, elements, expectShape, isCount } from './dtype.ts'

export type DeviceKind = 'cpu' | 'cuda' | 'pinned' | 'meta'

/**
 * A place where tensors are made. `cpu` and `cuda` hold data, and so does `pinned`, host memory beside the GPU, where nothing is
 * computed; `meta` holds only shapes, so a computation on it counts bytes and does nothing else. An arena is a device too: what is computed from tensors in an arena lies in that arena.
 */
export interface Device {
  readonly kind: DeviceKind
  /** In what activations and unquantised weights are held: f32 on the CPU, bf16 on the GPU. */
  readonly activations: 'f32' | 'bf16'
  /** Rows of a bf16 matrix begin at multiples of so many elements. */
  readonly rowAlignment: number
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
  /** The tensor has all of it to itself, so that it may give it back. */
  readonly owned?: boolean
}

/** Elements from one row of a tensor to the next; rows of the last dimension. */
function pitchOf({ rowAlignment }: Device, shape: readonly number[], dtype: DType): number {
  const width = shape.at(-1) ?? 1
  return dtype === 'bf16' && shape.length > 1 ? Math.ceil(width / rowAlignment) * rowAlignment : width
}

/** Bytes that a tensor takes on a device, with the padding between its rows. */
export function bytesOn(device: Device, shape: readonly number[], dtype: DType): number {
  return elements(shape.slice(0, -1)) * pitchOf(device, shape, dtype) * bytesPerElement[dtype]
}

/** A row-major array on a device. It owns no data of its own; views share memory. */
export class Tensor {
  readonly device: Device
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly memory: Memory
  /** Elements from one row of the last dimension to the next. */
  readonly pitch: number
  private readonly isCut: boolean

  constructor(
    device: Device,
    shape: readonly number[],
    dtype: DType,
    memory: Memory,
    pitch = pitchOf(device, shape, dtype),
    isCut = false,
  ) {
    this.device = device
    this.dtype = dtype
    this.shape = shape
    this.memory = memory
    this.pitch = pitch
    this.isCut = isCut
  }

  /** Whether it is columns of a wider matrix: what lies between its rows belongs to others. */
  get isStrided(): boolean {
    const { device, shape, dtype, pitch } = this
    return this.isCut || (shape.length > 1 && pitch !== shape.at(-1) && pitch !== pitchOf(device, shape, dtype))
  }

  get elements(): number {
    return elements(this.shape)
  }

  /** Memory that it takes on its device, with the padding between rows. */
  get bytes(): number {
    return bytesOn(this.device, this.shape, this.dtype)
  }

  /** Bytes of its values alone, as files and the host hold them. */
  get dataBytes(): number {
    return this.elements * bytesPerElement[this.dtype]
  }

  /**
   * What lies in its memory from element `from` on, padding counted, as a view of `shape`, which may reach past the tensor.
   * @throws {OpError} `E_OP`: `from` or `shape` is none.
   */
  slice(from: number, shape: readonly number[], pitch = pitchOf(this.device, shape, this.dtype)): Tensor {
    expectShape('slice', shape, this.dtype)
    if (!isCount(from)) {
      throw new OpError('E_OP', 'slice: from is no element', {
        expected: 'a whole number of 0 or more',
        found: String(from),
      })
    }
    return this.view(from, shape, pitch, false)
  }

  /**
   * Rows `[from, to)` of the first dimension, as a view.
   * @throws {OpError} `E_OP`: it does not have them.
   */
  rows(from: number, to: number): Tensor {
    this.expectRange('rows', from, to, this.shape[0])
    const [, ...rest] = this.shape
    if (rest.length === 0) return this.slice(from, [to - from])
    const row = elements(rest.slice(0, -1)) * this.pitch
    return this.view(from * row, [to - from, ...rest], this.pitch, this.isCut)
  }

  /**
   * Columns `[from, to)` of a matrix, as a view.
   * @throws {OpError} `E_OP`: it does not have them.
   */
  columns(from: number, to: number): Tensor {
    this.expectRange('columns', from, to, this.shape.length === 2 ? this.shape[1] : undefined)
    return this.view(from, [this.shape[0]!, to - from], this.pitch, to - from < this.shape[1]! || this.isCut)
  }

  private expectRange(op: 'rows' | 'columns', from: number, to: number, size: number | undefined): void {
    if (size !== undefined && isCount(from) && isCount(to) && from <= to && to <= size) return
    throw new OpError('E_OP', `${op}: the tensor does not have these ${op}`, {
      expected: size === undefined ? `a tensor with ${op}` : `whole numbers, 0 <= from <= to <= ${size}`,
      found: `${from} to ${to} of [${this.shape.join(', ')}]`,
    })
  }

  private view(from: number, shape: readonly number[], pitch: number, isCut: boolean): Tensor {
    const byteOffset = this.memory.byteOffset + from * bytesPerElement[this.dtype]
    return new Tensor(this.device, shape, this.dtype, { storage: this.memory.storage, byteOffset }, pitch, isCut)
  }

  /**
   * Copies values into the tensor, from byte `byteOffset` of its own on: an array of its dtype's type (of 16-bit floats the
   * raw bits), or raw bytes. A u8 tensor takes the bytes of any array.
   * @throws {OpError} `E_OP`: the array is of another type, or too long.
   */
  write(data: NodeJS.TypedArray, byteOffset = 0): this {
    if (!isDataOf(this.dtype, data)) {
      throw new OpError('E_OP', `write: not data of a tensor of ${this.dtype}`, {
        expected: `${arrayTypes[this.dtype].name}, or Uint8Array of raw bytes`,
        found: typeName(data),
      })
    }
    this.onData('write', (addon) => addon.upload(byteOffset, bytesOf(data)))
    return this
  }

  /** A copy of the tensor's values on the host. Waits for the device. */
  read(): TensorData {
    const data = new arrayTypes[this.dtype](this.elements)
    this.onData('read', (addon) => addon.download(0, bytesOf(data)))
    return data
  }

  /** The only element of a one-element tensor. */
  item(): number {
    return Number(this.read()[0])
  }

  zero(): this {
    if (this.isStrided) for (let i = 0; i < this.shape[0]!; i++) this.rows(i, i + 1).onData('zero', fill0)
    else this.onData('zero', fill0)
    return this
  }

  /** Runs a call of the addon with this tensor; none on meta. */
  private onData(op: string, run: (addon: Addon) => void): void {
    if (!this.memory.storage) return
    pass(this)
    onTensors(op, () => run(addon()))
  }

  /**
   * Gives the tensor's own memory back now, instead of when the event loop turns after a garbage collection; neither it nor
   * its views can be used afterwards. A view, and a tensor of an arena, has none of its own and gives nothing back.
   */
  dispose(): void {
    const { storage, owned } = this.memory
    if (storage && owned) addon().release(storage.slot)
  }

  /** A copy on the same device. */
  clone(): Tensor {
    return this.device.empty(this.shape, this.dtype).write(this.read())
  }
}

const fill0 = (addon: Addon): void => addon.fill(0)

/** What {@link allOrNothing} would give back now. */
let taken: StorageHandle[] | undefined

/** Zeroed memory of a device; none on meta. */
export function allocate(kind: DeviceKind, bytes: number): StorageHandle | undefined {
  if (kind === 'meta') return undefined
  const storage = onDevice(() => addon().allocate(bytes, kind))
  taken?.push(storage)
  return storage
}

/** Gives what `make` makes; where it throws, the memory that it took goes back at once. */
export function allOrNothing<Result>(make: () => Result): Result {
  const before = taken
  taken = []
  try {
    const made = make()
    before?.push(...taken)
    return made
  } catch (error) {
    for (const { slot } of taken) addon().release(slot)
    throw error
  } finally {
    taken = before
  }
}

const bytesOf = (data: NodeJS.TypedArray) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

const isDataOf = (dtype: DType, data: unknown): boolean =>
  data instanceof Uint8Array || (dtype === 'u8' ? ArrayBuffer.isView(data) : data instanceof arrayTypes[dtype])

const typeName = (data: unknown): string => Object.prototype.toString.call(data).slice('[object '.length, -1)

/** What {@link tensorFrom} makes of arrays; those of 16-bit floats could be either. */
const copied = ['f32', 'i32', 'u8', 'i64'] as const

export function zeros(device: Device, shape: readonly number[], dtype: DType): Tensor {
  return device.empty(shape, dtype).zero()
}

/**
 * A tensor with the given values; the dtype follows from the array's type (f32, i32, u8, i64).
 * @throws {OpError} `E_OP`: the array is of another type, or has not as many values as the shape.
 */
export function tensorFrom(
  device: Device,
  data: Float32Array | Int32Array | Uint8Array | BigInt64Array,
  shape: readonly number[] = [data.length],
): Tensor {
  const dtype = copied.find((one) => data instanceof arrayTypes[one])
  if (!dtype) {
    throw new OpError('E_OP', 'tensorFrom: not data that a tensor is made from', {
      expected: copied.map((one) => arrayTypes[one].name).join(', '),
      found: typeName(data),
    })
  }
  if (data.length !== elements(shape)) {
    throw new OpError('E_OP', 'tensorFrom: the data does not fill the shape', {
      expected: `${elements(shape)} values for [${shape.join(', ')}]`,
      found: `${data.length}`,
    })
  }
  return device.empty(shape, dtype).write(data)
}
