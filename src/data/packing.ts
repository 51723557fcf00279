import { type Example, ignoredTarget } from './encode.ts'

/** Group `i` holds `members` from `bounds[i]` to before `bounds[i + 1]`. */
export interface Groups {
  members: Uint32Array
  bounds: Uint32Array
}

/**
 * Fills rows of `capacity` tokens with whole examples, best fit decreasing: the longest first, each into the fullest row
 * that still has room. Ties go by index, so the same lengths always give the same rows.
 *
 * @param lengths  Tokens of each example, none above `capacity`.
 * @returns The indices of the examples in each row.
 */
export function packBestFit(lengths: Uint32Array, capacity: number): Groups {
  const examples = Uint32Array.from(lengths, (_, i) => i)
  const { members: longestFirst } = group(examples, (example) => capacity - lengths[example]!, capacity + 1)
  const rowOf = new Uint32Array(lengths.length)
  const rowsByRoom: number[][] = Array.from({ length: capacity + 1 }, () => [])
  let rows = 0
  for (const example of longestFirst) {
    const length = lengths[example]!
    let room = length
    while (room < capacity && rowsByRoom[room]!.length === 0) room++
    const row = rowsByRoom[room]!.pop() ?? rows++
    rowOf[example] = row
    rowsByRoom[room - length]!.push(row)
  }
  return group(longestFirst, (example) => rowOf[example]!, rows)
}

/** Groups `items` by their keys, which are below `keys`, keeping their order (counting sort). */
function group(items: Uint32Array, keyOf: (item: number) => number, keys: number): Groups {
  const bounds = new Uint32Array(keys + 1)
  for (const item of items) bounds[keyOf(item) + 1]!++
  for (let key = 1; key <= keys; key++) bounds[key]! += bounds[key - 1]!
  const next = bounds.slice()
  const members = new Uint32Array(items.length)
  for (const item of items) members[next[keyOf(item)]!++] = item
  return { members, bounds }
}

/**
 * Cuts running text, documents one after another, into sequences of `sequenceLength` tokens. The last one may be shorter. The
 * first token of each is predicted by none: its context lies in the sequence before.
 */
export class Wrapper {
  readonly #sequenceLength: number
  readonly #take: (example: Example) => void
  #row: Int32Array
  #filled = 0

  /** @param take is given each sequence as it is full */
  constructor(sequenceLength: number, take: (example: Example) => void) {
    this.#sequenceLength = sequenceLength
    this.#take = take
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
    this.#take({ ids, targets })
  }
}
