import { expect, test } from 'vitest'
import { countParameters } from '../../src/memory/planner.ts'
import { parseConfig } from '../../src/model/config.ts'

interface Heads {
  query: number
  kv: number
  dim?: number
}

// From the config.json of published models, and the parameters that the Hugging Face Hub counts in their safetensors
test.each<[string, string, number, number, number, Heads, number, boolean, number]>([
  ['SmolLM2-135M', 'llama', 576, 1536, 30, { query: 9, kv: 3 }, 49152, true, 134_515_008],
  ['TinyLlama-1.1B', 'llama', 2048, 5632, 22, { query: 32, kv: 4 }, 32000, false, 1_100_048_384],
  ['Mistral-7B-v0.1', 'mistral', 4096, 14336, 32, { query: 32, kv: 8 }, 32000, false, 7_241_732_096],
  ['Mistral-Nemo', 'mistral', 5120, 14336, 40, { query: 32, kv: 8, dim: 128 }, 131072, false, 12_247_782_400],
  ['Qwen2.5-0.5B', 'qwen2', 896, 4864, 24, { query: 14, kv: 2 }, 151936, true, 494_032_768],
  ['Qwen2.5-7B', 'qwen2', 3584, 18944, 28, { query: 28, kv: 4 }, 152064, false, 7_615_616_512],
  ['Qwen3-0.6B', 'qwen3', 1024, 3072, 28, { query: 16, kv: 8 }, 151936, true, 596_049_920],
  ['Qwen3-8B', 'qwen3', 4096, 12288, 36, { query: 32, kv: 8 }, 151936, false, 8_190_735_360],
])(
  '%s has as many parameters as its files',
  (_name, family, hidden, intermediate, layers, heads, vocab, tied, count) => {
    const config = {
      model_type: family,
      hidden_size: hidden,
      intermediate_size: intermediate,
      num_hidden_layers: layers,
      num_attention_heads: heads.query,
      num_key_value_heads: heads.kv,
      head_dim: heads.dim,
      vocab_size: vocab,
      tie_word_embeddings: tied,
    }
    expect(countParameters(parseConfig(config, 'config.json'))).toBe(count)
  },
)
