/** How likely a token was, by the model's own distribution: temperature, top-k and top-p do not change it. */
export interface TokenScore {
  id: number
  /** Natural logarithm of its probability. */
  logprob: number
  /** The likeliest tokens in its place, likeliest first. */
  top: { id: number; logprob: number }[]
}

/** The score of token `id` by `logits` [vocab], with the `count` likeliest. */
export function tokenScore(logits: Float32Array, id: number, count: number): TokenScore {
  const likeliest = largest(logits, Math.max(1, count))
  const most = logits[likeliest[0]!]!
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - most)
  const logprob = (token: number) => logits[token]! - most - Math.log(sum)
  const top = likeliest.slice(0, count).map((token) => ({ id: token, logprob: logprob(token) }))
  return { id, logprob: logprob(id), top }
}

/** Indices of the `count` largest values, largest first, of equals the first. */
function largest(values: Float32Array, count: number): number[] {
  const found: number[] = []
  for (let i = 0; i < values.length; i++) {
    if (found.length === count && !(values[i]! > values[found.at(-1)!]!)) continue
    const place = found.findIndex((index) => values[i]! > values[index]!)
    found.splice(place < 0 ? found.length : place, 0, i)
    found.length = Math.min(found.length, count)
  }
  return found
}
