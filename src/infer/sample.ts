import { uniform } from '../data/random.ts'

export interface SampleOptions {
  /** 0 takes the most likely token; 1 samples from the model's own distribution. */
  temperature: number
  /** Only the k most likely tokens; 0: all. */
  topK: number
  /** Only the most likely tokens that together reach this probability; 1: all. */
  topP: number
  seed: number
}

/** The next token by `logits` [vocab]. Token number `step` of a sequence draws the same way for the same seed. */
export function sample(logits: Float32Array, { temperature, topK, topP, seed }: SampleOptions, step: number): number {
  const best = argmax(logits)
  if (temperature === 0) return best
  const most = logits[best]!
  const weights = new Float64Array(logits.length)
  for (let id = 0; id < weights.length; id++) weights[id] = Math.exp((logits[id]! - most) / temperature)
  const sum = (ids: Uint32Array) => ids.reduce((total, id) => total + weights[id]!, 0)

  let ids: Uint32Array = new Uint32Array(logits.length).map((_, id) => id)
  if (topK > 0) ids = leading(ids, logits, () => 1, topK)
  if (topP < 1) ids = leading(ids, logits, (id) => weights[id]!, topP * sum(ids))
  const mark = uniform(1, seed, step)[0]! * sum(ids)
  let reached = 0
  for (const id of ids) {
    reached += weights[id]!
    if (reached > mark) return id
  }
  return best // only where logits are NaN
}

/**
 * The most likely of `ids`, as few as have sizes that add up to `mark`, in any order; of equals the first. By quickselect: a
 * few passes over `ids`, which it reorders, where sorting the vocabulary would take longer than a small model's step.
 */
export function leading(
  ids: Uint32Array,
  logits: Float32Array,
  sizeOf: (id: number) => number,
  mark: number,
): Uint32Array {
  const swap = (i: number, j: number) => {
    const id = ids[i]!
    ids[i] = ids[j]!
    ids[j] = id
  }
  let [start, end, missing] = [0, ids.length, mark]
  while (start < end) {
    swap((start + end) >> 1, end - 1)
    const pivot = ids[end - 1]!
    const level = logits[pivot]!
    let middle = start
    let size = 0
    for (let i = start; i < end - 1; i++) {
      const id = ids[i]!
      if (logits[id]! < level || (logits[id] === level && id > pivot)) continue
      size += sizeOf(id)
      swap(middle++, i)
    }
    swap(middle, end - 1)
    if (size >= missing) {
      end = middle
    } else {
      missing -= size + sizeOf(pivot)
      start = middle + 1
      if (missing <= 0) break
    }
  }
  return ids.subarray(0, start)
}

/** Index of the largest value, the first of equals. */
export function argmax(values: Float32Array): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}
