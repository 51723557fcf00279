import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { PruningPlan } from '../../src/formats/pruningJson.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { expectedTensors, inverseFrequencies, parseConfig, prunedWidths } from '../../src/model/config.ts'
import { goldenPath } from '../golden.ts'

const read = (...parts: string[]) => JSON.parse(readFileSync(goldenPath(...parts), 'utf8'))
const llama3 = read('models', 'llama3', 'config.json')
const parse = (changes: object, ...rest: [PruningPlan?, object?]) =>
  parseConfig({ ...llama3, ...changes }, 'config.json', ...(rest as []))

describe.each(['llama2', 'llama3', 'llama3-tied', 'mistral', 'qwen2', 'qwen3'])('%s', (model) => {
  test('both dialects of config.json say the same', () => {
    const config = parseConfig(read('models', model, 'config.json'), 'config.json')
    expect(parseConfig(read('models', model, 'config.v4.json'), 'config.v4.json')).toEqual(config)
    expect(config.layers).toHaveLength(config.numHiddenLayers)
  })

  test('frequencies agree with transformers', () => {
    const file = openSafetensors(goldenPath('models', model, 'golden.safetensors'))
    const want = new Float32Array(file.read('rope.inv_freq').buffer)
    file.close()
    const got = inverseFrequencies(parseConfig(read('models', model, 'config.json'), 'config.json'))
    expect(got).toHaveLength(want.length)
    // transformers rounds about eight steps to float32, this code only the last
    want.forEach((value, j) => {
      expect(Math.abs(got[j]! - value)).toBeLessThanOrEqual(8 * 2 ** -24 * value)
    })
  })
})

test('a silent config.json gets the defaults of transformers', () => {
  const { hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, vocab_size } = llama3
  const least = {
    model_type: 'llama',
    hidden_size,
    intermediate_size,
    num_hidden_layers,
    num_attention_heads,
    vocab_size,
  }
  expect(parseConfig(least, 'config.json')).toEqual({
    modelType: 'llama',
    hiddenSize: 64,
    intermediateSize: 176,
    numHiddenLayers: 2,
    numAttentionHeads: 4,
    numKeyValueHeads: 4,
    headDim: 16,
    vocabSize: 160,
    rmsNormEps: 1e-6,
    ropeTheta: 10_000,
    ropeScaling: { type: 'default' },
    tieWordEmbeddings: false,
    maxPositionEmbeddings: 2048,
    eosTokenIds: [],
    dtype: 'f32',
    attentionWindows: [0, 0],
    layers: Array(2).fill({ intermediateSize: 176, numAttentionHeads: 4, numKeyValueHeads: 4 }),
  })
})

const sizes = {
  hidden_size: 64,
  intermediate_size: 176,
  num_hidden_layers: 3,
  num_attention_heads: 32,
  vocab_size: 160,
}
const parseFamily = (model_type: string, changes: object = {}) =>
  parseConfig({ model_type, ...sizes, ...changes }, 'config.json')

test.each([
  [
    'mistral',
    { numKeyValueHeads: 8, headDim: 2, maxPositionEmbeddings: 131_072, attentionWindows: [4096, 4096, 4096] },
  ],
  ['qwen2', { numKeyValueHeads: 32, headDim: 2, maxPositionEmbeddings: 32_768, attentionWindows: [0, 0, 0] }],
  ['qwen3', { numKeyValueHeads: 32, headDim: 128, maxPositionEmbeddings: 32_768, attentionWindows: [0, 0, 0] }],
])('a silent config.json of %s gets the defaults of transformers', (family, want) => {
  expect(parseFamily(family)).toMatchObject({ ...want, ropeTheta: 10_000, rmsNormEps: 1e-6, tieWordEmbeddings: false })
  expect(parseFamily(family, { num_key_value_heads: null }).numKeyValueHeads).toBe(32)
})

const sliding = { use_sliding_window: true, sliding_window: 7 }
test.each<[string, object, number[]]>([
  ['mistral', { sliding_window: 7 }, [7, 7, 7]],
  ['mistral', { sliding_window: null }, [0, 0, 0]],
  ['llama', sliding, [0, 0, 0]],
  ['qwen2', { ...sliding, use_sliding_window: false, max_window_layers: 1 }, [0, 0, 0]],
  ['qwen2', { ...sliding, max_window_layers: 1 }, [0, 7, 7]],
  ['qwen2', sliding, [0, 0, 0]], // max_window_layers is 28 where it is not said
  ['qwen3', { ...sliding, max_window_layers: 0 }, [7, 7, 7]],
  ['qwen3', { ...sliding, layer_types: ['sliding_attention', 'full_attention', 'sliding_attention'] }, [7, 0, 7]],
  ['qwen3', { ...sliding, sliding_window: null, max_window_layers: 0 }, [0, 0, 0]],
])('%s with %j has the windows %j', (family, changes, windows) => {
  expect(parseFamily(family, changes).attentionWindows).toEqual(windows)
})

test.each<[string, object, string, string]>([
  ['mistral', { layer_types: Array(3).fill('full_attention') }, 'layer_types', 'null'],
  ['mistral', { sliding_window: 0 }, 'sliding_window', '>0'],
  ['qwen2', { layer_types: ['sliding_attention'] }, 'layer_types', 'one for each of 3 layers'],
  ['qwen2', { layer_types: Array(3).fill('sliding_attention') }, 'layer_types', 'full_attention alone'],
  [
    'qwen2',
    { layer_types: ['chunked_attention', 'full_attention', 'full_attention'] },
    'layer_types.0',
    'full_attention',
  ],
  ['qwen2', { use_sliding_window: 'yes' }, 'use_sliding_window', 'boolean'],
  ['qwen2', { hidden_act: 'gelu' }, 'hidden_act', 'silu'],
  ['qwen3', { attention_bias: true }, 'attention_bias', 'false'],
  ['qwen3', { max_window_layers: -1 }, 'max_window_layers', '>=0'],
])('%s refuses %j, naming the field', (family, changes, field, expected) => {
  expect(() => parseFamily(family, changes)).toThrow(
    expect.objectContaining({
      code: 'E_MODEL',
      details: expect.objectContaining({ file: 'config.json', field, expected: expect.stringContaining(expected) }),
    }),
  )
})

test('TinyLlama: an old config.json without rope_theta, and with rope_scaling null', () => {
  const { ropeTheta, ropeScaling } = parseFamily('llama', { rope_scaling: null, torch_dtype: 'bfloat16' })
  expect({ ropeTheta, ropeScaling }).toEqual({ ropeTheta: 10_000, ropeScaling: { type: 'default' } })
})

test('linear scaling, under its old key too, divides every frequency', () => {
  const plain = inverseFrequencies(parse({ rope_parameters: { rope_theta: 1e4 } }))
  const scaled = inverseFrequencies(
    parse({ rope_parameters: null, rope_theta: 1e4, rope_scaling: { type: 'linear', factor: 4 } }),
  )
  expect(scaled).toEqual(plain.map((frequency) => frequency / 4))
})

test('end tokens: one, several, and those of generation_config.json before all', () => {
  expect(parse({}).eosTokenIds).toEqual([2])
  expect(parse({ eos_token_id: [2, 7] }).eosTokenIds).toEqual([2, 7])
  expect(parse({}, undefined, { eos_token_id: [5, 6] }).eosTokenIds).toEqual([5, 6])
  expect(parse({}, undefined, {}).eosTokenIds).toEqual([2])
  expect(parse({ pad_token_id: -1 })).not.toHaveProperty('padTokenId')
})

test.each([
  [{ model_type: 'gpt2' }, 'model_type', 'llama'],
  [{ model_type: 'constructor' }, 'model_type', 'llama'],
  [{ model_type: undefined }, 'model_type', 'llama'],
  [{ hidden_act: 'gelu' }, 'hidden_act', 'silu'],
  [{ attention_bias: true }, 'attention_bias', 'false'],
  [{ mlp_bias: true }, 'mlp_bias', 'false'],
  [{ rope_parameters: { rope_type: 'yarn', factor: 2 } }, 'rope_parameters.rope_type', 'default, linear, llama3'],
  [{ rope_parameters: { rope_type: 'linear' } }, 'rope_parameters.factor', 'number'],
  [{ rope_parameters: { partial_rotary_factor: 0.5 } }, 'rope_parameters.partial_rotary_factor', '1'],
  [{ partial_rotary_factor: 0.5 }, 'partial_rotary_factor', '1'],
  [{ rope_parameters: { full_attention: { rope_theta: 1e4 } } }, 'rope_parameters.full_attention', 'null'],
  [{ num_key_value_heads: 3 }, 'num_attention_heads', 'multiple of 3'],
  [{ num_attention_heads: 5, head_dim: null, num_key_value_heads: null }, 'hidden_size', 'multiple of 5'],
  [{ head_dim: 15 }, 'head_dim', 'multiple of 2'],
  [{ hidden_size: '64' }, 'hidden_size', 'number'],
  [{ hidden_size: -64 }, 'hidden_size', '>0'],
  [{ num_hidden_layers: 1.5 }, 'num_hidden_layers', 'int'],
  [{ vocab_size: undefined }, 'vocab_size', 'number'],
  [{ dtype: 'float8_e4m3fn' }, 'dtype', 'bfloat16'],
])('refuses %j, naming the field', (changes, field, expected) => {
  expect(() => parse(changes)).toThrow(
    expect.objectContaining({
      code: 'E_MODEL',
      details: expect.objectContaining({ file: 'config.json', field, expected: expect.stringContaining(expected) }),
    }),
  )
})

test.each([
  ['models', 'llama3'],
  ['models', 'llama3-tied'],
  ['models', 'mistral'],
  ['models', 'qwen2'],
  ['models', 'qwen3'],
  ['loram', 'large'],
  ['loram', 'pruned'],
])('expected tensors are exactly those of %s/%s', (...model) => {
  const file = openSafetensors(goldenPath(...model, 'model.safetensors'))
  const found = new Map([...file.tensors].map(([name, { shape }]) => [name, shape]))
  file.close()
  expect(expectedTensors(parseConfig(read(...model, 'config.json'), 'config.json'))).toEqual(found)
})

// The counts in LoRAM's tables 4 and 5 follow from these widths.
test.each([
  [0.65, 10035, 3],
  [0.75, 7168, 2],
  [0.85, 4300, 2],
  [0.95, 1433, 1],
])('a 70B layer pruned by %d keeps %d channels and %d kv heads', (ratio, intermediateSize, numKeyValueHeads) => {
  const full = { intermediateSize: 28672, numAttentionHeads: 64, numKeyValueHeads: 8 }
  const pruned = { intermediateSize, numAttentionHeads: 8 * numKeyValueHeads, numKeyValueHeads }
  expect(prunedWidths(full, ratio, ratio)).toEqual(pruned)
})

test('a 13B layer, without grouped queries, keeps 4838 channels and 14 heads', () => {
  const full = { intermediateSize: 13824, numAttentionHeads: 40, numKeyValueHeads: 40 }
  const pruned = { intermediateSize: 4838, numAttentionHeads: 14, numKeyValueHeads: 14 }
  expect(prunedWidths(full, 0.65, 0.65)).toEqual(pruned)
})

describe('with a pruning plan', () => {
  const source = {
    hiddenSize: 64,
    intermediateSize: 176,
    numHiddenLayers: 2,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    headDim: 16,
  }
  const plan: PruningPlan = {
    method: 'random',
    ratio: 0.5,
    layers: [1, 2],
    source: { name: 'llama3', fingerprint: 'sha256:0', ...source },
    kept: [{ layer: 1, channels: [3, 5, 8], kvHeads: [1] }],
  }

  test('the pruned layers have the widths that it keeps', () => {
    expect(parse({}, plan).layers).toEqual([
      { intermediateSize: 176, numAttentionHeads: 4, numKeyValueHeads: 2 },
      { intermediateSize: 3, numAttentionHeads: 2, numKeyValueHeads: 1 },
    ])
  })

  test('of another model, it is refused', () => {
    const other = { ...plan, source: { ...plan.source, intermediateSize: 180 } }
    const details = expect.objectContaining({ field: 'intermediateSize', found: '176' })
    expect(() => parse({}, other)).toThrow(expect.objectContaining({ code: 'E_PLAN', details }))
  })
})
