import { createReadStream } from 'node:fs'
import { pipeline } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { DataError, messageOf } from '../errors.ts'

/** A piece of a file and the line it starts in, from 1. `bytes` is undefined where it exceeds the limit. */
export interface Piece {
  line: number
  bytes: Buffer | undefined
}

type Chunks = AsyncIterable<Buffer>

/**
 * A file's bytes as they are.
 * @throws {DataError} `E_DATA`: it cannot be read
 */
export async function* readBytes(file: string): AsyncGenerator<Buffer> {
  try {
    yield* createReadStream(file, { highWaterMark: 2 ** 20 })
  } catch (cause) {
    throw unreadable(file, cause)
  }
}

/** Its text as it is read, without a byte order mark; `.gz` is unpacked. */
export async function* readChunks(file: string): AsyncGenerator<Buffer> {
  const stream = createReadStream(file)
  const chunks: Chunks = file.endsWith('.gz') ? pipeline(stream, createGunzip(), () => {}) : stream
  let isFirst = true
  for await (const chunk of chunks) {
    const hasMark = isFirst && chunk[0] === 0xef && chunk[1] === 0xbb && chunk[2] === 0xbf
    isFirst = false
    yield hasMark ? chunk.subarray(3) : chunk
  }
}

export function unreadable(file: string, cause: unknown): DataError {
  return new DataError('E_DATA', `${file} cannot be read`, {
    file,
    found: messageOf(cause),
    remedy: 'check that the file exists, is complete and may be read',
    cause,
  })
}

/** Collects a piece that comes in parts, and holds no more than `limit` bytes of it. */
class Collector {
  readonly #limit: number
  #parts: Buffer[] = []
  #length = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  add(part: Buffer): void {
    this.#length += part.length
    if (this.#length <= this.#limit) this.#parts.push(part)
    else this.#parts = []
  }

  take(line: number): Piece {
    const piece = { line, bytes: this.#length <= this.#limit ? Buffer.concat(this.#parts) : undefined }
    this.#parts = []
    this.#length = 0
    return piece
  }
}

/** Splits at line feeds, which are left out. */
export async function* splitLines(chunks: Chunks, limit: number): AsyncGenerator<Piece> {
  const collector = new Collector(limit)
  let line = 1
  for await (const chunk of chunks) {
    let start = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      collector.add(chunk.subarray(start, end))
      yield collector.take(line++)
      start = end + 1
    }
    collector.add(chunk.subarray(start))
  }
  yield collector.take(line)
}

/** Groups whole lines into blocks of at most `limit` bytes: a text file is one block unless it is larger. */
export async function* splitText(chunks: Chunks, limit: number): AsyncGenerator<Piece> {
  let lines: Buffer[] = []
  let length = 0
  let start = 1
  const take = (next: number): Piece => {
    const piece = { line: start, bytes: Buffer.concat(lines.flatMap((line) => [line, lineFeed])) }
    lines = []
    length = 0
    start = next
    return piece
  }
  for await (const { line, bytes } of splitLines(chunks, limit - 1)) {
    const size = (bytes?.length ?? limit) + 1
    if (length > 0 && length + size > limit) yield take(line)
    if (bytes === undefined) {
      yield { line, bytes }
      start = line + 1
      continue
    }
    lines.push(bytes)
    length += size
  }
  const rest = take(0)
  // what follows the last line feed has none of its own
  yield { ...rest, bytes: rest.bytes?.subarray(0, -1) }
}

const lineFeed = Buffer.from('\n')

/** Splits a JSON array into its elements without parsing them; what stands outside of the array is ignored. */
export async function* splitArray(chunks: Chunks, limit: number): AsyncGenerator<Piece> {
  const collector = new Collector(limit)
  let depth = 0
  let inString = false
  let escaped = false
  let line = 1
  let startLine = 0
  for await (const chunk of chunks) {
    let start = depth > 0 ? 0 : chunk.length
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!
      if (byte === 10) line++
      else if (startLine === 0 && byte > 32) startLine = line
      if (inString) {
        if (escaped) escaped = false
        else if (byte === 0x5c) escaped = true
        else if (byte === 0x22) inString = false
        continue
      }
      if (byte === 0x22) inString = true
      else if (byte === 0x5b || byte === 0x7b) {
        if (depth++ === 0) [start, startLine] = [i + 1, 0]
      } else if (byte === 0x5d || byte === 0x7d) depth--
      const ends = (byte === 0x2c && depth === 1) || (byte === 0x5d && depth === 0)
      if (!ends) continue
      collector.add(chunk.subarray(start, i))
      yield collector.take(startLine)
      ;[start, startLine] = [depth === 0 ? chunk.length : i + 1, 0]
    }
    collector.add(chunk.subarray(start))
  }
  if (depth > 0) throw new Error(`the JSON array is not closed in line ${line}, where the file ends`)
}
