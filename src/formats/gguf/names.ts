/** Tensors outside of the layers, by their names in GGUF files and in Hugging Face checkpoints, without `.weight`. */
const topNames = { token_embd: 'model.embed_tokens', output_norm: 'model.norm', output: 'lm_head' } as const

/** The same inside of a layer: `blk.3.attn_q` is `model.layers.3.self_attn.q_proj`. */
const layerNames = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
} as const

/** Factors of the rotary frequencies, which are part of config.json elsewhere. */
export const ropeFactorsName = 'rope_freqs.weight'

const keyOf = <K extends string>(names: Readonly<Record<K, string>>, value: string): K | undefined =>
  (Object.keys(names) as K[]).find((key) => names[key] === value)

/** `blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; `undefined` for what such models do not have. */
export function fromGgufName(name: string): string | undefined {
  const [, layer, part, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name) ?? []
  if (part === undefined) return undefined
  const names: Readonly<Record<string, string>> = layer === undefined ? topNames : layerNames
  const found = Object.hasOwn(names, part) ? names[part] : undefined
  if (found === undefined) return undefined
  return layer === undefined ? `${found}.${kind}` : `model.layers.${layer}.${found}.${kind}`
}

/** The inverse of {@link fromGgufName}, for names of checkpoints that loram opens. */
export function toGgufName(name: string): string {
  const [, layer, path, kind] = /^(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name)!
  const part = layer === undefined ? keyOf(topNames, path!) : `blk.${layer}.${keyOf(layerNames, path!)}`
  return `${part}.${kind}`
}

/** Whether files of this architecture hold the rows of a q or k projection in another order than Hugging Face. */
export const isPermuted = (architecture: string, name: string): boolean =>
  architecture === 'llama' && /\.self_attn\.[qk]_proj\.(weight|bias)$/.test(name)

/**
 * Llama's files pair rotary dimensions 2i and 2i + 1, checkpoints i and i + d/2: the row of the file that holds row `row`
 * of the checkpoint.
 */
export function fileRow(row: number, headDim: number): number {
  const inHead = row % headDim
  const half = headDim / 2
  return row - inHead + 2 * (inHead % half) + (inHead < half ? 0 : 1)
}

/** The inverse of {@link fileRow}. */
export function checkpointRow(row: number, headDim: number): number {
  const inHead = row % headDim
  return row - inHead + (inHead >> 1) + (inHead % 2) * (headDim / 2)
}
