export interface Heads {
  query: number
  keyValue: number
  dim: number
}

/** A result, and the same sums over absolute values: what rounding errors are judged by. */
export interface Summed {
  value: Float64Array
  magnitude: Float64Array
}

/** Where sequences of these lengths begin when they lie one after another, and where the last ends. */
export const boundsOf = (lengths: readonly number[]): Int32Array => {
  const bounds = new Int32Array(lengths.length + 1)
  lengths.forEach((length, i) => {
    bounds[i + 1] = bounds[i]! + length
  })
  return bounds
}

/**
 * Causal grouped-query attention and its gradients from the formulas, one query and head after another, each over the last
 * `window` of the keys up to its own. `scoreMagnitude` is the largest sum of absolute values behind a score.
 */
export function attentionInDoubles(
  { q, k, v, dy }: Record<'q' | 'k' | 'v' | 'dy', Float64Array>,
  queryBounds: Int32Array,
  keyBounds: Int32Array,
  heads: Heads,
  window = Number.POSITIVE_INFINITY,
) {
  const { dim } = heads
  const scale = 1 / Math.sqrt(dim)
  const summed = (like: Float64Array): Summed => ({
    value: new Float64Array(like.length),
    magnitude: new Float64Array(like.length),
  })
  const result = {
    y: summed(q),
    lse: new Float64Array(q.length / dim),
    dq: summed(q),
    dk: summed(k),
    dv: summed(v),
    scoreMagnitude: 0,
  }
  const dot = (a: Float64Array, i: number, b: Float64Array, j: number): Summed => {
    const products = Float64Array.from({ length: dim }, (_, c) => a[i + c]! * b[j + c]!)
    const sum = (x: Float64Array) => Float64Array.of(x.reduce((total, value) => total + value, 0))
    return { value: sum(products), magnitude: sum(products.map(Math.abs)) }
  }
  const add = (to: Summed, at: number, from: Float64Array, i: number, factor: number, magnitude = Math.abs(factor)) => {
    for (let c = 0; c < dim; c++) {
      to.value[at + c]! += factor * from[i + c]!
      to.magnitude[at + c]! += magnitude * Math.abs(from[i + c]!)
    }
  }

  const row = (query: number, head: number, firstKey: number, visible: number) => {
    const at = (query * heads.query + head) * dim
    const kvHead = Math.floor(head / (heads.query / heads.keyValue))
    const keys = Array.from({ length: visible }, (_, j) => ((firstKey + j) * heads.keyValue + kvHead) * dim)
    const scores = keys.map((key) => {
      const { value, magnitude } = dot(q, at, k, key)
      result.scoreMagnitude = Math.max(result.scoreMagnitude, scale * magnitude[0]!)
      return scale * value[0]!
    })
    const max = Math.max(...scores)
    const lse = max + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - max), 0))
    const probabilities = scores.map((score) => Math.exp(score - lse))
    result.lse[at / dim] = lse
    keys.forEach((key, j) => {
      add(result.y, at, v, key, probabilities[j]!)
    })
    const delta = dot(dy, at, result.y.value, at).value[0]!
    const deltaMagnitude = dot(dy.map(Math.abs), at, result.y.magnitude, at).value[0]!
    keys.forEach((key, j) => {
      const p = probabilities[j]!
      const dp = dot(dy, at, v, key)
      const ds = scale * p * (dp.value[0]! - delta)
      const dsMagnitude = scale * p * (dp.magnitude[0]! + deltaMagnitude)
      add(result.dv, key, dy, at, p)
      add(result.dq, at, k, key, ds, dsMagnitude)
      add(result.dk, key, q, at, ds, dsMagnitude)
    })
  }

  for (let s = 0; s + 1 < queryBounds.length; s++) {
    const [first, end] = [queryBounds[s]!, queryBounds[s + 1]!]
    const [firstKey, endKey] = [keyBounds[s]!, keyBounds[s + 1]!]
    for (let query = first; query < end; query++) {
      const visible = endKey - firstKey - (end - 1 - query)
      const hidden = Math.max(0, visible - window)
      for (let head = 0; head < heads.query; head++) row(query, head, firstKey + hidden, visible - hidden)
    }
  }
  return result
}
