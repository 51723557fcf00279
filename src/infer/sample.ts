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
  if (temperature === 0) return argmax(logits)
  const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!)
  const candidates = topK > 0 ? order.slice(0, topK) : order
  const weights = candidates.map((id) => Math.exp((logits[id]! - logits[order[0]!]!) / temperature))
  const total = sum(weights)
  let reached = 0
  const nucleus = weights.findIndex((weight) => (reached += weight / total) >= topP)
  const kept = nucleus < 0 ? weights : weights.slice(0, nucleus + 1)
  let left = uniform(1, seed, step)[0]! * sum(kept)
  const chosen = kept.findIndex((weight) => (left -= weight) < 0)
  return candidates[chosen < 0 ? kept.length - 1 : chosen]!
}

const sum = (values: number[]) => values.reduce((total, value) => total + value, 0)

/** Index of the largest value, the first of equals. */
export function argmax(values: Float32Array): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}
