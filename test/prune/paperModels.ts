import { type LlamaConfig, parseConfig } from '../../src/model/config.ts'
import { choose, layersToPrune, prunedConfig } from '../../src/prune/plan.ts'

const thirteenBillion = {
  hidden_size: 5120,
  intermediate_size: 13824,
  num_hidden_layers: 40,
  num_attention_heads: 40,
}
const seventyBillion = {
  hidden_size: 8192,
  intermediate_size: 28672,
  num_hidden_layers: 80,
  num_attention_heads: 64,
  num_key_value_heads: 8,
}

/** The models of LoRAM's tables (Zhang et al. 2025, arXiv 2502.13533). */
const paperModels = {
  'LLaMA-2-13B': { ...thirteenBillion, vocab_size: 32000 },
  'LLaMA-2-70B': { ...seventyBillion, vocab_size: 32000 },
  'LLaMA-3.1-70B': { ...seventyBillion, vocab_size: 128256 },
}
type PaperModel = keyof typeof paperModels

export const configOf = (model: PaperModel): LlamaConfig =>
  parseConfig({ model_type: 'llama', dtype: 'bfloat16', ...paperModels[model] }, 'config.json')

/** The model pruned as in the paper: all layers but the first four and the last two. */
export function prunedConfigOf(model: PaperModel, ratio: number): LlamaConfig {
  const config = configOf(model)
  const { intermediateSize, numKeyValueHeads, numHiddenLayers } = config
  const equal = { channels: new Float32Array(intermediateSize), kvHeads: new Float32Array(numKeyValueHeads) }
  return prunedConfig(
    config,
    choose(config, ratio, layersToPrune(numHiddenLayers), () => equal),
  )
}

/** Tables 4 and 5: a model, the ratio, and the parameters before and after. */
export const paperCounts: readonly [PaperModel, number, number, number][] = [
  ['LLaMA-2-13B', 0.65, 13015864320, 6005662720],
  ['LLaMA-2-70B', 0.65, 68976648192, 28099436544],
  ['LLaMA-2-70B', 0.75, 68976648192, 21488738304],
  ['LLaMA-2-70B', 0.85, 68976648192, 16272924672],
  ['LLaMA-2-70B', 0.95, 68976648192, 9662226432],
  ['LLaMA-3.1-70B', 0.85, 70553706496, 17849982976],
]
