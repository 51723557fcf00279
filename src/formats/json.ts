import { isUtf8 } from 'node:buffer'
import { readFileSync } from 'node:fs'
import { FileError, messageOf } from '../errors.ts'
import { reading } from './disk.ts'

export type JsonObject = Record<string, unknown>

/**
 * Reads a JSON object that somebody else wrote and that has no large arrays.
 * @throws {FileError} `E_FILE`
 */
export function readJsonObject(file: string): JsonObject {
  const text = reading(file, () => readFileSync(file, 'utf8'))
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new FileError('E_FILE', `${file} is not JSON`, { file, found: messageOf(cause), cause })
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject
  throw new FileError('E_FILE', `${file} does not hold a JSON object`, { file, found: text.slice(0, 80) })
}

export function formatJson(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}

const deepestSkip = 64
const longestWord = 64
const [quote, backslash, comma, bracket, brace] = Buffer.from('"\\,]}')
const isSpace = (byte: number | undefined) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09
const endsWord = (byte: number | undefined) =>
  byte === undefined || byte === comma || byte === bracket || byte === brace || isSpace(byte)

/**
 * Reads JSON of a known form from its bytes. Where JSON.parse builds whatever a hostile file asks for and lets the last of two
 * equal keys win, this one builds only what the caller takes, and refuses equal keys. Every method throws a SyntaxError.
 */
export class JsonCursor {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    if (!isUtf8(bytes)) throw new SyntaxError('not UTF-8')
  }

  /** Calls `member` with each key; it must take the value. */
  object(member: (key: string) => void): void {
    this.#expect('{')
    if (this.#take('}')) return
    const keys = new Set<string>()
    do {
      const key = this.string()
      if (keys.has(key)) throw this.#error(`key ${JSON.stringify(key.slice(0, 80))} comes twice`)
      keys.add(key)
      this.#expect(':')
      member(key)
    } while (this.#take(','))
    this.#expect('}')
  }

  /** Calls `item` at each item; it must take it. */
  array(item: () => void): void {
    this.#expect('[')
    if (this.#take(']')) return
    do item()
    while (this.#take(','))
    this.#expect(']')
  }

  string(): string {
    this.#expect('"')
    const bytes = this.#bytes
    let end = this.#at
    while (bytes[end] !== quote) {
      if (end >= bytes.length) throw this.#error('a string has no end')
      end += bytes[end] === backslash ? 2 : 1
    }
    const text = bytes.toString('utf8', this.#at - 1, end + 1)
    this.#at = end + 1
    return JSON.parse(text)
  }

  /** An integer, not exact beyond 2^53. */
  integer(): number {
    const text = this.#word()
    if (!/^-?(0|[1-9]\d*)$/.test(text)) throw this.#error('not an integer')
    return Number(text)
  }

  /** Passes over any value. */
  skip(depth = deepestSkip): void {
    const next = this.#peek()
    if (depth === 0) throw this.#error(`nested more than ${deepestSkip} deep`)
    if (next === '{') this.object(() => this.skip(depth - 1))
    else if (next === '[') this.array(() => this.skip(depth - 1))
    else if (next === '"') this.string()
    else JSON.parse(this.#word())
  }

  /** Only white space may be left. */
  end(): void {
    if (this.#peek() !== '') throw this.#error('more text after the end')
  }

  /** A number, true, false or null: what stands before the next white space, comma or closing bracket. */
  #word(): string {
    this.#peek()
    const start = this.#at
    while (!endsWord(this.#bytes[this.#at]) && this.#at - start < longestWord) this.#at++
    return this.#bytes.toString('latin1', start, this.#at)
  }

  /** The next character that is not white space, or '' at the end. */
  #peek(): string {
    const bytes = this.#bytes
    let at = this.#at
    while (isSpace(bytes[at])) at++
    this.#at = at
    return at < bytes.length ? String.fromCharCode(bytes[at]!) : ''
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false
    this.#at++
    return true
  }

  #expect(character: string): void {
    if (!this.#take(character)) throw this.#error(`expected ${character}`)
  }

  #error(message: string): SyntaxError {
    return new SyntaxError(`${message} at byte ${this.#at}`)
  }
}
