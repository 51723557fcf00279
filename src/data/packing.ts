import { type Example, ignoredTarget } from './encode.ts'

/**
 * Fills rows of `capacity` tokens with whole examples, best fit decreasing: the longest first, each into the fullest row
 * that still has room. Ties go by index, so the same lengths always give the same rows.
 *
 * @param lengths  Tokens of each example, none above `capacity`.
 * @returns The indices of the examples in each row.
 */
export function packBestFit(lengths: ArrayLike<number>, capacity: number): number[][] {
  const longestFirst = Array.from({ length: lengths.length }, (_, i) => i).sort(
    (a, b) => lengths[b]! - lengths[a]! || a - b,
  )
  const rows: number[][] = []
  const rowsByRoom: number[][][] = Array.from({ length: capacity + 1 }, () => [])
  for (const example of longestFirst) {
    const length = lengths[example]!
    let room = length
    while (room < capacity && rowsByRoom[room]!.length === 0) room++
    const started = rowsByRoom[room]!.pop()
    const row = started ?? []
    if (started === undefined) rows.push(row)
    row.push(example)
    rowsByRoom[room - length]!.push(row)
  }
  return rows
}

/**
 * Cuts running text, documents one after another, into sequences of `sequenceLength` tokens. The last one may be shorter. The
 * first token of each is predicted by none: its context lies in the sequence before.
 */
export class Wrapper {
  readonly examples: Example[] = []
  readonly #sequenceLength: number
  #row: Int32Array
  #filled = 0

  constructor(sequenceLength: number) {
    this.#sequenceLength = sequenceLength
    this.#row = new Int32Array(sequenceLength)
  }

  add(ids: readonly number[]): void {
    for (let start = 0; start < ids.length; ) {
      const part = ids.slice(start, start + this.#sequenceLength - this.#filled)
      this.#row.set(part, this.#filled)
      this.#filled += part.length
      start += part.length
      if (this.#filled === this.#sequenceLength) this.end()
    }
  }

  /** Closes the sequence in progress, if it has anything to learn. */
  end(): void {
    const ids = this.#row.slice(0, this.#filled)
    this.#filled = 0
    if (ids.length < 2) return
    const targets = new Int32Array(ids.length).fill(ignoredTarget)
    targets.set(ids.subarray(1))
    this.examples.push({ ids, targets })
  }
}
