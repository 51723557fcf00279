import { readdirSync } from 'node:fs'
import path from 'node:path'
import { merge, plan, prune } from 'loram'
import { beforeAll, describe, expect, test } from 'vitest'
import { exportGguf } from '../../src/export/exportGguf.ts'
import { openGgufCheckpoint } from '../../src/formats/gguf/checkpoint.ts'
import { tensorTypes } from '../../src/formats/gguf/tensorTypes.ts'
import { type GgufEntryValue, writeGguf } from '../../src/formats/gguf/write.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts'
import { writeTinyModel } from '../cli/support.ts'
import { expectError, scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'

const dir = scratchFolder()
const at = (...parts: string[]) => path.join(dir, ...parts)
const model = at('gguf', 'model-f16.gguf')

beforeAll(() => {
  writeTinyModel(at('folder'), ['models', 'llama3'])
  exportGguf({ model: at('folder'), content: 'merged', type: 'f16', output: at('gguf') })
})

describe('a GGUF file stands where a folder can', () => {
  test('plan', () => {
    expect(plan({ model }).original.parameters).toBe(plan({ model: at('folder') }).original.parameters)
  })

  test.each([
    [
      'prune',
      () => prune({ model, output: at('prune'), ratio: 0.5, layers: [0, 1], criterion: 'magnitude', device: 'cpu' }),
    ],
    ['merge', () => merge({ model, adapter: goldenPath('lora', 'adapter-after-3-steps'), output: at('merge') })],
  ])('%s, whose result is a folder with the tokenizer', async (name, run) => {
    await run()
    expect(readdirSync(at(name))).toEqual(
      expect.arrayContaining(['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']),
    )
    const text = 'Say 3 and 4.'
    expect(loadTokenizer(at(name)).encode(text)).toEqual(loadTokenizer(at('folder')).encode(text))
    expect(openModelFolder(at(name)).config.modelType).toBe('llama')
  })
})

describe('what is no such model is refused', () => {
  const file = at('other.gguf')
  const sizes = {
    block_count: 1,
    embedding_length: 8,
    feed_forward_length: 8,
    context_length: 16,
    'attention.head_count': 2,
  }
  const norm = { name: 'output_norm.weight', shape: [8], type: tensorTypes.F32 }

  function write(changes: Record<string, GgufEntryValue>, entries = [norm], architecture = 'llama') {
    const numbers = Object.entries(sizes).map(([key, u32]): [string, GgufEntryValue] => [
      `${architecture}.${key}`,
      { u32 },
    ])
    const metadata = new Map([['general.architecture', architecture], ...numbers, ...Object.entries(changes)] as [
      string,
      GgufEntryValue,
    ][])
    writeGguf(file, metadata, entries, (name) => {
      const { shape, type } = entries.find((entry) => entry.name === name)!
      return [new Uint8Array(shape.reduce((a, b) => a * b) * type.blockBytes)]
    })
    return file
  }

  test.each<[string, Record<string, GgufEntryValue>, string]>([
    ['an adapter', { 'general.type': 'adapter' }, 'general.type'],
    ['one part of several', { 'split.count': { u32: 3 } }, 'split.count'],
    ['a mixture of experts', { 'llama.expert_count': { u32: 8 } }, 'expert_count'],
    [
      'rotary embedding of half a head',
      { 'llama.rope.dimension_count': { u32: 2 }, 'llama.attention.key_length': { u32: 4 } },
      'rope.dimension_count',
    ],
  ])('%s', (_, changes, field) => {
    expectError(() => openGgufCheckpoint(write(changes)), 'E_MODEL', { file, field })
  })

  test('with tensors that Llama has not', () => {
    const extra = [norm, { ...norm, name: 'blk.0.ssm_a.weight' }]
    expectError(() => openGgufCheckpoint(write({}, extra)), 'E_MODEL', { tensor: 'blk.0.ssm_a.weight' })
  })

  test('with other factors of the rotary frequencies than Llama 3 has', () => {
    const factors = [norm, { ...norm, name: 'rope_freqs.weight', shape: [2] }]
    const field = 'rope_freqs.weight'
    expectError(() => openGgufCheckpoint(write({ 'llama.rope.freq_base': { f32: 1e4 } }, factors)), 'E_MODEL', {
      field,
    })
  })

  test('of another architecture, by its name', () => {
    expectError(() => openModelFolder(write({}, [norm], 'mamba')), 'E_MODEL', { field: 'model_type', found: '"mamba"' })
  })

  test('with yarn', () => {
    const yarn = {
      'llama.rope.scaling.type': 'yarn',
      'llama.rope.scaling.factor': { f32: 2 },
      'tokenizer.ggml.model': 'gpt2',
    }
    const embedding = { name: 'token_embd.weight', shape: [4, 8], type: tensorTypes.F32 }
    const field = 'rope_scaling.rope_type'
    expectError(() => openModelFolder(write(yarn, [embedding, norm])), 'E_MODEL', { field, found: '"yarn"' })
  })

  test.each<[string, Record<string, GgufEntryValue>, string]>([
    ['no tokenizer', {}, 'tokenizer.ggml.model'],
    ["T5's", { 'tokenizer.ggml.model': 't5' }, 'tokenizer.ggml.model'],
    [
      'SentencePiece without a score for each token',
      {
        'tokenizer.ggml.model': 'llama',
        'tokenizer.ggml.tokens': ['a', 'b'],
        'tokenizer.ggml.scores': { f32s: [0] },
      },
      'tokenizer.ggml.scores',
    ],
    [
      'an unknown way to cut words',
      { 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.tokens': ['a'], 'tokenizer.ggml.pre': 'dbrx' },
      'tokenizer.ggml.pre',
    ],
    ['no tokens', { 'tokenizer.ggml.model': 'gpt2' }, 'tokenizer.ggml.tokens'],
    ['no merges', { 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.tokens': ['a'] }, 'tokenizer.ggml.merges'],
  ])('a tokenizer: %s', (_, changes, field) => {
    expectError(() => loadTokenizer(write(changes)), 'E_TOKENIZER', { file, field })
  })

  test.each(['bin', 'pt', 'pth'])('a pickle .%s, unread, with the remedy', (ending) => {
    const found = expect.stringContaining('a pickle, which can run any code')
    expectError(() => openModelFolder(at(`model.${ending}`)), 'E_FILE', {
      found,
      remedy: expect.stringContaining('convert it'),
    })
  })

  test('a file that is not there', () => {
    expectError(() => openModelFolder(at('none.gguf')), 'E_FILE', { file: at('none.gguf') })
  })
})
