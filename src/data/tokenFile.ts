import { createHash } from 'node:crypto'
import { closeSync, fstatSync, fsyncSync, openSync, readSync } from 'node:fs'
import { writeFully } from '../formats/atomic.ts'
import { reading, writing } from '../formats/disk.ts'
import { sha256 } from '../formats/sha256.ts'
import { type Example, type Examples, ignoredTarget } from './encode.ts'

/**
 * Encoded examples in a file, so that memory does not grow with text. Little-endian and without gaps:
 *
 *     i32 tokens   of all examples, one after another; `~id` for a token that is learnt
 *     u32 index    an example each: its tokens, times 2, plus 1 where it is held out
 *     JSON         `{ "examples": number, "statistics": … }`
 *     u32          bytes of the JSON
 *     u8[32]       SHA-256 of all before
 */
export class TokenFile<Statistics> {
  readonly #fd: number
  /** SHA-256 of everything in it. */
  readonly digest: string
  readonly statistics: Statistics
  /** Examples to learn from. */
  readonly examples: Examples
  /** Those that the split keeps for evaluation. */
  readonly held: Examples

  /**
   * Opens a file that a {@link TokenFileWriter} wrote.
   * @returns `undefined`: it is damaged
   */
  static open<Statistics>(file: string): TokenFile<Statistics> | undefined {
    const fd = reading(file, () => openSync(file, 'r'))
    const opened = isWhole(fd) ? new TokenFile<Statistics>(fd) : undefined
    if (!opened) closeSync(fd)
    return opened
  }

  /** @param fd of a whole file */
  constructor(fd: number) {
    this.#fd = fd
    const end = fstatSync(fd).size - digestBytes
    const jsonStart = end - 4 - read(fd, end - 4, 4).readUInt32LE()
    const { examples, statistics } = JSON.parse(read(fd, jsonStart, end - 4 - jsonStart).toString())
    const index = int32(read(fd, jsonStart - 4 * examples, 4 * examples), Uint32Array)
    this.digest = read(fd, end, digestBytes).toString('hex')
    this.statistics = statistics
    this.examples = new Part(fd, index, 0)
    this.held = new Part(fd, index, 1)
  }

  /** The examples cannot be read any more. */
  close(): void {
    closeSync(this.#fd)
  }
}

const digestBytes = 32

/** The examples of a token file whose lowest index bit is `side`. Holds 12 bytes of memory for each. */
class Part implements Examples {
  readonly #fd: number
  readonly #starts: Float64Array
  readonly #lengths: Uint32Array

  constructor(fd: number, index: Uint32Array, side: 0 | 1) {
    const count = index.reduce((sum, entry) => sum + ((entry & 1) === side ? 1 : 0), 0)
    this.#fd = fd
    this.#starts = new Float64Array(count)
    this.#lengths = new Uint32Array(count)
    let start = 0
    let at = 0
    for (const entry of index) {
      const length = entry >>> 1
      if ((entry & 1) === side) {
        this.#starts[at] = start
        this.#lengths[at++] = length
      }
      start += length
    }
  }

  get length(): number {
    return this.#lengths.length
  }

  tokens(index: number): number {
    return this.#lengths[index]!
  }

  at(index: number): Example {
    const length = this.#lengths[index]!
    const stored = int32(read(this.#fd, 4 * this.#starts[index]!, 4 * length), Int32Array)
    const ids = stored.map((token) => (token < 0 ? ~token : token))
    const targets = new Int32Array(length).fill(ignoredTarget)
    for (let i = 1; i < length; i++) if (stored[i]! < 0) targets[i - 1] = ids[i]!
    return { ids, targets }
  }

  *[Symbol.iterator](): Generator<Example> {
    for (let i = 0; i < this.length; i++) yield this.at(i)
  }
}

const bufferTokens = 2 ** 16

/** Writes a token file to a descriptor, example by example. */
export class TokenFileWriter {
  readonly #fd: number
  readonly #file: string
  readonly #hash = createHash('sha256')
  readonly #buffer = new Int32Array(bufferTokens)
  #filled = 0
  #index = new Uint32Array(1024)
  #count = 0

  /**
   * @param fd of an empty file, open for reading and writing
   * @param file its name, for errors
   */
  constructor(fd: number, file: string) {
    this.#fd = fd
    this.#file = file
  }

  /** @throws {RunError} `E_DISK` */
  add({ ids, targets }: Example, isHeld: boolean): void {
    ids.forEach((id, i) => {
      if (this.#filled === bufferTokens) this.#flush()
      this.#buffer[this.#filled++] = i > 0 && targets[i - 1] !== ignoredTarget ? ~id : id
    })
    if (this.#count === this.#index.length) {
      const larger = new Uint32Array(2 * this.#count)
      larger.set(this.#index)
      this.#index = larger
    }
    this.#index[this.#count++] = 2 * ids.length + (isHeld ? 1 : 0)
  }

  /** Writes the rest to the disk. */
  end<Statistics>(statistics: Statistics): TokenFile<Statistics> {
    this.#flush()
    const index = this.#index.subarray(0, this.#count)
    const json = Buffer.from(JSON.stringify({ examples: this.#count, statistics }))
    for (const part of [bytesOf(index), json, bytesOf(Uint32Array.of(json.length))]) this.#write(part)
    writing(this.#file, () => {
      writeFully(this.#fd, this.#hash.digest())
      fsyncSync(this.#fd)
    })
    return new TokenFile(this.#fd)
  }

  #flush(): void {
    this.#write(bytesOf(this.#buffer.subarray(0, this.#filled)))
    this.#filled = 0
  }

  #write(bytes: Uint8Array): void {
    this.#hash.update(bytes)
    writing(this.#file, () => writeFully(this.#fd, bytes))
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Int32Array | Uint32Array) =>
  new Uint8Array(buffer, byteOffset, byteLength)

function int32<T>(bytes: Buffer, Words: new (buffer: ArrayBufferLike, offset: number, length: number) => T): T {
  return new Words(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}

/** `length` bytes from `position`, in a buffer of their own. */
function read(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.from(new ArrayBuffer(length))
  for (let at = 0; at < length; ) {
    const got = readSync(fd, bytes, at, Math.min(length - at, largestRead), position + at)
    if (got === 0) throw new Error('a token file ends early')
    at += got
  }
  return bytes
}

const largestRead = 2 ** 30

/** Whether its digest is that of what stands before. */
function isWhole(fd: number): boolean {
  const end = fstatSync(fd).size - digestBytes
  return end >= 0 && sha256(fd, end).equals(read(fd, end, digestBytes))
}
