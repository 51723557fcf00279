import { createHash } from 'node:crypto'
import type { Segment } from '../tokenizer/segments.ts'

/** SHA-256 of what a record says, however it is spaced and composed. */
export const contentHash = (segments: readonly Segment[]): Buffer => hash(segments.map(textOf))

/**
 * A number in [0, 1) that depends on what is asked alone, so that a split by it survives reordering and keeps the same question
 * on one side. Running text, which asks nothing, counts as a whole.
 */
export function splitPoint(segments: readonly Segment[]): number {
  const answer = segments.findIndex(({ learnt }) => learnt)
  const prompt = segments.slice(0, answer).map(textOf)
  const asked = prompt.some((text) => text.trim() !== '') ? prompt : segments.map(textOf)
  return hash(asked).readUInt32BE() / 2 ** 32
}

const textOf = (segment: Segment): string => ('id' in segment ? '' : segment.text)

function hash(texts: readonly string[]): Buffer {
  const said = texts.map((text) => text.normalize('NFC').replace(/\s+/g, ' ').trim())
  return createHash('sha256').update(said.join('\0')).digest()
}

/** Tells repeated contents, by the first 64 bits of their hashes. 16 to 32 bytes each; a Set takes several times that. */
export class SeenContents {
  #table = new BigUint64Array(1024)
  #count = 0

  /** False where the same was added before. */
  add(content: Buffer): boolean {
    if (2 * this.#count === this.#table.length) this.#grow()
    const value = content.readBigUInt64BE() || 1n // 0 marks a free place
    const place = this.#placeOf(value)
    if (this.#table[place] === value) return false
    this.#table[place] = value
    this.#count++
    return true
  }

  #placeOf(value: bigint): number {
    const mask = this.#table.length - 1
    let place = Number(value & BigInt(mask))
    while (this.#table[place] !== 0n && this.#table[place] !== value) place = (place + 1) & mask
    return place
  }

  #grow(): void {
    const values = this.#table
    this.#table = new BigUint64Array(2 * values.length)
    for (const value of values) if (value !== 0n) this.#table[this.#placeOf(value)] = value
  }
}
