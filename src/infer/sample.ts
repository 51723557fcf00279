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

/** A token e^30 times less likely than the first is never drawn; leaving such out spares sorting the whole vocabulary. */
const negligible = 30

/** The next token by `logits` [vocab]. Token number `step` of a sequence draws the same way for the same seed. */
export function sample(logits: Float32Array, { temperature, topK, topP, seed }: SampleOptions, step: number): number {
  if (temperature === 0) return argmax(logits)
  const most = logits[argmax(logits)]!
  const likely = Array.from(logits.keys()).filter((id) => logits[id]! > most - negligible * temperature)
  const order = likely.sort((a, b) => logits[b]! - logits[a]!)
  const candidates = topK > 0 ? order.slice(0, topK) : order
  const weights = candidates.map((id) => Math.exp((logits[id]! - most) / temperature))
  const nucleus = weights.slice(0, reach(weights, topP * sum(weights)) + 1)
  return candidates[reach(nucleus, uniform(1, seed, step)[0]! * sum(nucleus))]!
}

/** Index at which the running sum of `weights` exceeds `mark`, at most the last. */
function reach(weights: readonly number[], mark: number): number {
  let reached = 0
  for (const [i, weight] of weights.entries()) {
    reached += weight
    if (reached > mark) return i
  }
  return weights.length - 1
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)

/** Index of the largest value, the first of equals. */
export function argmax(values: Float32Array): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}
