import { ModelError } from '../../errors.ts'
import type { JsonObject } from '../json.ts'
import type { GgufFile, GgufMetadata } from './file.ts'
import { ropeFactorsName } from './names.ts'
import { ropeOfFactors } from './ropeFactors.ts'
import { readPlainTensor } from './rows.ts'

const classes: Readonly<Record<string, string>> = {
  llama: 'LlamaForCausalLM',
  mistral: 'MistralForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
}
const dtypeNames = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' } as const

export const architectureOf = (metadata: GgufMetadata): string => String(metadata.get('general.architecture'))

/**
 * What config.json says of the same model. An architecture that loram does not run comes out under its own name as
 * `model_type`, for `parseConfig` to refuse.
 * @throws {ModelError} `E_MODEL`: the file is no whole model, or has parts that config.json has no words for
 */
export function configOf(gguf: GgufFile): JsonObject {
  requireWholeModel(gguf)
  const { metadata, tensors } = gguf
  const architecture = architectureOf(metadata)
  const of = (key: string) => metadata.get(`${architecture}.${key}`)
  const window = of('attention.sliding_window')
  const { headDim, scaling } = ropeOf(gguf, of)
  // Mistral's files have Llama's architecture
  const modelType = architecture === 'llama' && window !== undefined ? 'mistral' : architecture
  const has = (parts: string[]) => parts.some((part) => tensors.has(`blk.0.${part}.bias`))
  return {
    ...(Object.hasOwn(classes, modelType) && { architectures: [classes[modelType]] }),
    model_type: modelType,
    torch_dtype: dtypeNames[tensors.get('blk.0.attn_q.weight')?.type.dtype ?? 'f32'],
    hidden_act: 'silu',
    hidden_size: of('embedding_length'),
    intermediate_size: of('feed_forward_length'),
    num_hidden_layers: of('block_count'),
    num_attention_heads: of('attention.head_count'),
    num_key_value_heads: of('attention.head_count_kv'),
    head_dim: headDim,
    vocab_size: tensors.get('token_embd.weight')?.shape[0],
    max_position_embeddings: of('context_length'),
    rms_norm_eps: of('attention.layer_norm_rms_epsilon'),
    rope_theta: of('rope.freq_base'),
    rope_scaling: scaling,
    ...(modelType === 'mistral' && { sliding_window: window }),
    tie_word_embeddings: !tensors.has('output.weight'),
    attention_bias: has(['attn_output']) || (architecture !== 'qwen2' && has(['attn_q', 'attn_k', 'attn_v'])),
    mlp_bias: has(['ffn_gate', 'ffn_up', 'ffn_down']),
    ...tokenIdsOf(metadata),
  }
}

/** Ids of the tokens that begin, end and pad texts, as config.json and generation_config.json name them. */
export function tokenIdsOf(metadata: GgufMetadata) {
  const of = (name: string) => metadata.get(`tokenizer.ggml.${name}_token_id`)
  const ends = ['eos', 'eot'].map(of).filter((id) => id !== undefined)
  return { bos_token_id: of('bos') ?? null, eos_token_id: [...new Set(ends)], pad_token_id: of('padding') ?? null }
}

function requireWholeModel({ file, metadata }: GgufFile): void {
  const kind = metadata.get('general.type') ?? 'model'
  if (kind !== 'model') throw refused(file, 'general.type', 'model', String(kind))
  const parts = metadata.get('split.count') ?? 1
  if (parts !== 1) {
    throw refused(file, 'split.count', 'one file', String(parts), 'join the parts with llama-gguf-split --merge')
  }
  const experts = metadata.get(`${architectureOf(metadata)}.expert_count`) ?? 0
  if (experts !== 0) throw refused(file, 'expert_count', '0', String(experts))
}

function refused(file: string, field: string, expected: string, found: string, remedy?: string): ModelError {
  const details = { file, field, expected, found, ...(remedy !== undefined && { remedy }) }
  return new ModelError('E_MODEL', `${file} is not a model that loram can run`, details)
}

/** Width of a head, all of which is rotated, and how config.json says that its frequencies are stretched. */
function ropeOf(gguf: GgufFile, of: (key: string) => unknown) {
  const { file, tensors } = gguf
  const rotated = of('rope.dimension_count')
  const headDim =
    of('attention.key_length') ?? rotated ?? Number(of('embedding_length')) / Number(of('attention.head_count'))
  if (rotated !== undefined && rotated !== headDim) {
    throw refused(file, 'rope.dimension_count', `${headDim}, all of a head`, String(rotated))
  }
  const factors = tensors.get(ropeFactorsName)
  if (factors === undefined) {
    const type = of('rope.scaling.type')
    const scaled = type !== undefined && type !== 'none'
    return { headDim, scaling: scaled ? { rope_type: type, factor: of('rope.scaling.factor') } : null }
  }
  const originalContext = of('rope.scaling.original_context_length')
  const rope = ropeOfFactors(
    readPlainTensor(gguf, factors),
    Number(of('rope.freq_base')),
    Number(headDim),
    originalContext === undefined ? undefined : Number(originalContext),
  )
  if (rope === undefined) {
    throw refused(
      file,
      ropeFactorsName,
      "the factors of Llama 3's scaling",
      'other factors',
      'take the original folder',
    )
  }
  return { headDim, scaling: { rope_type: 'llama3', ...rope } }
}
