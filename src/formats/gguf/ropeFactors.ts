/** Llama 3's scaling of rotary frequencies, as config.json has it in `rope_parameters` or `rope_scaling`. */
export interface Llama3Rope {
  factor: number
  low_freq_factor: number
  high_freq_factor: number
  original_max_position_embeddings: number
}

/** What llama.cpp divides the `headDim / 2` rotary frequencies by: `rope_freqs.weight`. */
export function llama3Factors(theta: number, headDim: number, rope: Llama3Rope): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: headDim / 2 }, (_, j) => {
    const turns = (rope.original_max_position_embeddings * theta ** ((-2 * j) / headDim)) / (2 * Math.PI)
    const smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    const share = Math.min(1, Math.max(0, smooth))
    return 1 / (share + (1 - share) / rope.factor)
  })
}

/** The files hold these factors, not what they follow from; published models have these. */
const published = { low_freq_factor: 1, high_freq_factor: 4 }
const publishedContext = 8192

/** The scaling that `factors` come from, if it is one. */
export function ropeOfFactors(
  factors: Float32Array,
  theta: number,
  headDim: number,
  originalContext = publishedContext,
): Llama3Rope | undefined {
  const rope = { factor: Math.max(...factors), ...published, original_max_position_embeddings: originalContext }
  const expected = llama3Factors(theta, headDim, rope)
  const fits = (value: number, j: number) => Math.abs(value / factors[j]! - 1) < 1e-5
  return expected.length === factors.length && expected.every(fits) ? rope : undefined
}
