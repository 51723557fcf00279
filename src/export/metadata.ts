import type { GgufEntryValue } from '../formats/gguf/write.ts'
import type { LlamaConfig, RopeScaling } from '../model/config.ts'

/** The architecture of llama.cpp that computes this family: Mistral's is Llama's. */
export const architectureOf = ({ modelType }: LlamaConfig): string => (modelType === 'mistral' ? 'llama' : modelType)

/** A model's sizes and constants as GGUF metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
export function metadataOf(config: LlamaConfig): Map<string, GgufEntryValue> {
  const architecture = architectureOf(config)
  const window = config.attentionWindows[0]!
  const entries: Record<string, GgufEntryValue> = {
    vocab_size: { u32: config.vocabSize },
    context_length: { u32: config.maxPositionEmbeddings },
    embedding_length: { u32: config.hiddenSize },
    block_count: { u32: config.numHiddenLayers },
    feed_forward_length: { u32: config.intermediateSize },
    'attention.head_count': { u32: config.numAttentionHeads },
    'attention.head_count_kv': { u32: config.numKeyValueHeads },
    'attention.key_length': { u32: config.headDim },
    'attention.value_length': { u32: config.headDim },
    'attention.layer_norm_rms_epsilon': { f32: config.rmsNormEps },
    'rope.dimension_count': { u32: config.headDim },
    'rope.freq_base': { f32: config.ropeTheta },
    ...ropeScaling(config.ropeScaling),
    ...(window > 0 && { 'attention.sliding_window': { u32: window } }),
  }
  return new Map(Object.entries(entries).map(([key, value]) => [`${architecture}.${key}`, value]))
}

/** Llama 3's scaling is a tensor of its own, `rope_freqs.weight`; the context that it starts from says how to read it. */
function ropeScaling(scaling: RopeScaling): Record<string, GgufEntryValue> {
  if (scaling.type === 'linear')
    return { 'rope.scaling.type': 'linear', 'rope.scaling.factor': { f32: scaling.factor } }
  if (scaling.type === 'default') return {}
  return { 'rope.scaling.original_context_length': { u32: scaling.originalMaxPositionEmbeddings } }
}
