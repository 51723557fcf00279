import { FileError } from '../../errors.ts'
import { readFully } from '../safetensors.ts'

/** A metadata value. Integers beyond 2^53 come as bigint; arrays hold values of one type. */
export type GgufValue = number | bigint | boolean | string | GgufValue[]

/** Far above any model's: the largest vocabularies take some 10 MB, with 1.5 million array elements in all. */
const largestHeader = 100_000_000
const mostElements = 4_194_304
const deepestArray = 4
const windowBytes = 1 << 20

const stringType = 8
const arrayType = 9

const scalars: Record<number, { bytes: number; read: (data: Buffer) => number | bigint | boolean }> = {
  0: { bytes: 1, read: (data) => data.readUInt8() },
  1: { bytes: 1, read: (data) => data.readInt8() },
  2: { bytes: 2, read: (data) => data.readUInt16LE() },
  3: { bytes: 2, read: (data) => data.readInt16LE() },
  4: { bytes: 4, read: (data) => data.readUInt32LE() },
  5: { bytes: 4, read: (data) => data.readInt32LE() },
  6: { bytes: 4, read: (data) => shortestFloat(data.readFloatLE()) },
  7: { bytes: 1, read: (data) => data.readUInt8() !== 0 },
  10: { bytes: 8, read: (data) => exact(data.readBigUInt64LE()) },
  11: { bytes: 8, read: (data) => exact(data.readBigInt64LE()) },
  12: { bytes: 8, read: (data) => data.readDoubleLE() },
}

const exact = (value: bigint) => (Number.isSafeInteger(Number(value)) ? Number(value) : value)

/** The shortest decimal that is this float32: 1e-5, which it was written as, not 9.999999747378752e-6. */
function shortestFloat(value: number): number {
  for (let digits = 6; digits < 10; digits++) {
    const rounded = Number(value.toPrecision(digits))
    if (Math.fround(rounded) === value) return rounded
  }
  return value
}

/** Reads a GGUF header front to back through a small window. Nothing is allocated for more than the file has left. */
export class GgufCursor {
  readonly #fd: number
  readonly #file: string
  readonly #size: number
  #window = Buffer.alloc(0)
  #windowStart = 0
  #at = 0
  #elements = 0

  constructor(fd: number, file: string, size: number) {
    this.#fd = fd
    this.#file = file
    this.#size = size
  }

  /** Bytes read so far. */
  get position(): number {
    return this.#at
  }

  bytes(count: number): Buffer {
    const end = this.#at + count
    if (end > this.#size) throw this.error('the header', 'it goes on beyond the end of the file')
    if (end > largestHeader) throw this.error('the header', `it is longer than ${largestHeader} bytes`)
    if (end > this.#windowStart + this.#window.length) {
      this.#window = Buffer.alloc(Math.min(Math.max(count, windowBytes), this.#size - this.#at))
      this.#windowStart = this.#at
      readFully(this.#fd, this.#file, this.#window, this.#at)
    }
    const start = this.#at - this.#windowStart
    this.#at = end
    return this.#window.subarray(start, start + count)
  }

  u32(): number {
    return this.bytes(4).readUInt32LE()
  }

  /** A count or an offset, which the file can have so many of. */
  size(what: string): number {
    const value = this.bytes(8).readBigUInt64LE()
    if (value > BigInt(this.#size)) throw this.error(what, `${value}, in a file of ${this.#size} bytes`)
    return Number(value)
  }

  string(what: string): string {
    return this.bytes(this.size(`the length of ${what}`)).toString('utf8')
  }

  value(key: string, type = this.u32(), depth = deepestArray): GgufValue {
    if (type === stringType) return this.string(key)
    if (type === arrayType) return this.#array(key, depth)
    const scalar = scalars[type]
    if (scalar === undefined) throw this.error(key, `a value of the unknown type ${type}`)
    return scalar.read(this.bytes(scalar.bytes))
  }

  #array(key: string, depth: number): GgufValue[] {
    if (depth === 0) throw this.error(key, `arrays nested more than ${deepestArray} deep`)
    const type = this.u32()
    const length = this.size(`the length of ${key}`)
    this.#elements += length
    if (this.#elements > mostElements) throw this.error(key, `more than ${mostElements} array elements`)
    const values: GgufValue[] = []
    for (let i = 0; i < length; i++) values.push(this.value(key, type, depth - 1))
    return values
  }

  error(field: string, found: string): FileError {
    return new FileError('E_GGUF', `${this.#file} is damaged`, {
      file: this.#file,
      field: field.length > 80 ? `${field.slice(0, 80)}…` : field,
      found,
      remedy: 'download it again',
    })
  }
}
