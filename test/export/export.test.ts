import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { type ExportType, encode } from '../../src/export/encode.ts'
import { exportGguf } from '../../src/export/exportGguf.ts'
import { vocabularyOf } from '../../src/export/vocabulary.ts'
import { toFloat32 } from '../../src/formats/float32.ts'
import { openGguf } from '../../src/formats/gguf/file.ts'
import { checkpointRow } from '../../src/formats/gguf/names.ts'
import { rowReader } from '../../src/formats/gguf/rows.ts'
import { tensorTypes } from '../../src/formats/gguf/tensorTypes.ts'
import { tokenKinds } from '../../src/formats/gguf/tokenizer.ts'
import { writeGguf } from '../../src/formats/gguf/write.ts'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import { readAdapter, writeAdapter } from '../../src/formats/peft.ts'
import { writeMerged } from '../../src/lora/merge.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { cpu } from '../../src/tensor/device.ts'
import { tensorFrom } from '../../src/tensor/tensor.ts'
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts'
import { writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectLogits, goldenBatch, loadDirectory } from '../model/support.ts'
import { readGolden } from '../ops/support.ts'
import { byteLevelJson, sentencePieceJson, writeTokenizer } from '../tokenizer/tokenizers.ts'

const dir = scratchFolder()
const at = (...parts: string[]) => path.join(dir, ...parts)
let exports = 0

/** Exports into a new folder and gives it. */
function exported(options: {
  model: string
  adapter?: string
  content?: 'merged' | 'both' | 'adapter'
  type?: ExportType
}) {
  const output = at(`export-${exports++}`)
  exportGguf({ content: 'merged', type: 'f32', ...options, output })
  return output
}

/** Weights of a model by name, widened to f32. */
function weightsOf(model: string): Map<string, Float32Array> {
  const checkpoint = openCheckpoint(model)
  const entries = Array.from(checkpoint.tensors, ([name, { dtype }]): [string, Float32Array] => [
    name,
    toFloat32(checkpoint.read(name), dtype as 'f32'),
  ])
  checkpoint.close()
  return new Map(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}

const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), a.length === b.length ? 0 : Number.NaN)

const golden = ['llama2', 'llama3', 'llama3-tied', 'mistral', 'qwen2', 'qwen3']
const modelDir = (name: string) => at(name)
beforeAll(() => {
  for (const name of golden) writeTinyModel(modelDir(name), ['models', name])
})

describe.each(golden)('%s', (name) => {
  // the golden weights are exact in bf16; in f16 those below 2^-14 are rounded to multiples of 2^-24
  test.each([
    ['f32', 0],
    ['bf16', 0],
    ['f16', 2 ** -25],
  ] as const)('comes back from %s with the same weights and sizes', (type, bound) => {
    const file = path.join(exported({ model: modelDir(name), type }), `model-${type}.gguf`)
    const original = weightsOf(modelDir(name))
    expect(weightsOf(file).size).toBe(original.size)
    for (const [key, values] of weightsOf(file)) {
      expect(largestDifference(values, original.get(key)!), key).toBeLessThanOrEqual(bound)
    }
    const { config, warnings } = openModelFolder(file)
    const { dtype, ...sizes } = openModelFolder(modelDir(name)).config
    expect(config).toEqual({ ...sizes, dtype: type })
    expect(warnings).toEqual([])
  })

  test('has the golden logits, read from the GGUF file', () => {
    const file = path.join(exported({ model: modelDir(name) }), 'model-f32.gguf')
    const values = readGolden('models', name, 'golden.safetensors')
    expectLogits(loadDirectory(file, cpu), goldenBatch(values, 'right.'), values('right.logits').data)
  })

  test('comes back from q8_0 within half a step of its blocks', () => {
    const file = path.join(exported({ model: modelDir(name), type: 'q8_0' }), 'model-q8_0.gguf')
    const original = weightsOf(modelDir(name))
    const gguf = openGguf(file)
    const quantized = [...gguf.tensors.values()].filter(({ type }) => type === tensorTypes.Q8_0)
    expect(quantized.length).toBeGreaterThan(10)
    gguf.close()
    for (const [key, values] of weightsOf(file)) {
      const wanted = original.get(key)!
      for (let i = 0; i < values.length; i += 32) {
        const block = wanted.subarray(i, i + 32)
        const largest = block.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
        // half a step, the rounding of the scale to half precision (2^-11), and of the product to bf16 (2^-8)
        const bound = largest * (0.5 / 127 + 2 ** -11 + 2 ** -8)
        expect(largestDifference(values.subarray(i, i + 32), block)).toBeLessThanOrEqual(bound)
      }
    }
  })
})

test('Q8_0 has the bytes of the reference, ties and zeros included', () => {
  const { encode: cases } = JSON.parse(readFileSync(new URL('../fixtures/gguf/blocks.json', import.meta.url), 'utf8'))
  const values = new Float32Array(new Uint8Array(Buffer.from(cases.Q8_0.values, 'base64')).buffer)
  const bytes = encode(tensorFrom(cpu, values, [1, values.length]), tensorTypes.Q8_0, 'x')
  expect(Buffer.from(bytes).toString('base64')).toBe(cases.Q8_0.bytes)
})

test('a weight beyond half precision is refused, as f16 and as q8_0', () => {
  const large = tensorFrom(cpu, new Float32Array(32).fill(1e7), [1, 32])
  for (const type of [tensorTypes.F16, tensorTypes.Q8_0]) {
    expect(() => encode(large, type, 'x')).toThrow(expect.objectContaining({ code: 'E_NONFINITE' }))
  }
  expect(encode(large, tensorTypes.BF16, 'x')).toHaveLength(64)
})

describe('with an adapter', () => {
  const base = goldenPath('lora', 'adapter-after-3-steps')
  const adapter = readAdapter(base)

  test('merged is the merged checkpoint', () => {
    const output = exported({ model: modelDir('llama3'), adapter: base })
    const checkpoint = openCheckpoint(modelDir('llama3'))
    writeMerged(checkpoint, adapter, at('merged'))
    expect(weightsOf(path.join(output, 'model-f32.gguf'))).toEqual(weightsOf(at('merged')))
    expect(weightsOf(at('merged'))).not.toEqual(weightsOf(modelDir('llama3')))
  })

  test('apart, the adapter is a GGUF file of its own, q and k in the order of the model', () => {
    const output = exported({ model: modelDir('llama3'), adapter: base, content: 'both' })
    expect(readdirSync(output).sort()).toEqual(['Modelfile', 'adapter.gguf', 'model-f32.gguf'])
    expect(readFileSync(path.join(output, 'Modelfile'), 'utf8')).toMatch(
      /^FROM \.\/model-f32\.gguf\nADAPTER \.\/adapter\.gguf\n/,
    )
    const gguf = openGguf(path.join(output, 'adapter.gguf'))
    expect(Object.fromEntries(gguf.metadata)).toMatchObject({
      'general.architecture': 'llama',
      'general.type': 'adapter',
      'adapter.type': 'lora',
      'adapter.lora.alpha': adapter.alpha,
    })
    expect(gguf.tensors.size).toBe(2 * adapter.modules.size)
    const { b } = adapter.modules.get('model.layers.1.self_attn.k_proj')!
    const held = gguf.tensors.get('blk.1.attn_k.weight.lora_b')!
    expect(held.shape).toEqual(b.shape)
    const readRow = rowReader(gguf, held)
    for (let row = 0; row < b.shape[0]; row++) {
      const from = checkpointRow(row, 16) * b.shape[1]
      expect(toFloat32(readRow(row).slice(), 'f32')).toEqual(b.data.slice(from, from + b.shape[1]))
    }
    gguf.close()
  })

  test('rsLoRA becomes an alpha that gives the same scale', () => {
    writeAdapter(at('rslora'), { ...adapter, useRslora: true })
    const output = exported({ model: modelDir('llama3'), adapter: at('rslora'), content: 'adapter' })
    expect(readdirSync(output)).toEqual(['adapter.gguf'])
    const { metadata, close } = openGguf(path.join(output, 'adapter.gguf'))
    close()
    expect(metadata.get('adapter.lora.alpha')).toBeCloseTo(adapter.alpha * Math.sqrt(adapter.rank), 5)
  })

  test.each([
    ['no adapter where one is wanted', () => exported({ model: modelDir('llama3'), content: 'both' }), 'E_CONFIG'],
    [
      'an adapter for another model',
      () => exported({ model: modelDir('llama3-tied'), adapter: base }),
      'E_ADAPTER_BASE',
    ],
    ['a pruned model', () => exported({ model: goldenPath('loram', 'pruned') }), 'E_MODEL'],
  ])('%s is refused, and nothing is left', (_, action, code) => {
    const before = readdirSync(dir)
    expect(action).toThrow(expect.objectContaining({ code }))
    expect(readdirSync(dir)).toEqual(before)
  })
})

describe('the tokenizer', () => {
  const metaspace = (scheme: string) => ({
    type: 'Metaspace',
    replacement: '▁',
    prepend_scheme: scheme,
    split: false,
  })
  const texts = [
    "Hello world 123, it's 4567 o'clock.\n\n  two blanks\tand a tab",
    'def f(x):\n    return x ** 2  # "quoted"\r\n',
    'naïve Übergröße 漢字 😀 ✓',
    'user</s><|im_end|><s> the end ',
    '',
    ' ',
  ]

  test('comes back: the same ids, special tokens and chat template', () => {
    const model = modelDir('llama3')
    writeFileSync(
      path.join(model, 'tokenizer_config.json'),
      JSON.stringify({
        bos_token: '<s>',
        eos_token: '</s>',
        pad_token: '<pad>',
        add_bos_token: true,
        chat_template: '{{ x }}',
      }),
    )
    const ours = loadTokenizer(model)
    const theirs = loadTokenizer(path.join(exported({ model }), 'model-f32.gguf'))
    for (const text of texts.filter((text) => /^[ -~]*$/.test(text))) {
      for (const specialTokens of [false, true]) {
        const ids = theirs.encode(text, { specialTokens })
        expect(ids).toEqual(ours.encode(text, { specialTokens }))
        expect(theirs.decode(ids)).toBe(ours.decode(ids))
      }
    }
    const { bosId, eosId, eosIds, padId, addBos, chatTemplate, specialTokens } = ours
    expect(theirs).toMatchObject({ bosId, eosId, eosIds, padId, addBos, chatTemplate, specialTokens })
  })

  test.each([
    ['llama-bpe', byteLevelJson.pre_tokenizer],
    ['gpt-2', { type: 'ByteLevel', add_prefix_space: false, use_regex: true }],
  ])('of %s cuts words alike', (pre, pre_tokenizer) => {
    // a vocabulary of 273 tokens, where the golden models have 160
    const json = { ...byteLevelJson, pre_tokenizer }
    const model = writeTokenizer({
      'tokenizer.json': json,
      'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>', unk_token: '</s>' },
    })
    const file = at(`${pre}.gguf`)
    const vocabulary = vocabularyOf(model, 273)
    expect(vocabulary.get('tokenizer.ggml.pre')).toBe(pre)
    const { i32s: kinds } = vocabulary.get('tokenizer.ggml.token_type') as { i32s: number[] }
    expect(kinds[loadTokenizer(model).eosId!]).toBe(tokenKinds.control)
    writeGguf(file, vocabulary, [], () => [])
    const tokenizer = loadTokenizer(file)
    const ours = loadTokenizer(model)
    for (const text of texts) expect(tokenizer.encode(text)).toEqual(ours.encode(text))
  })

  // a blank opens each text, in either spelling, or does not; Metaspace leaves it out before another, unlike SentencePiece
  test.each([
    ['Prepend', sentencePieceJson, true],
    ['Metaspace', { ...sentencePieceJson, normalizer: null, pre_tokenizer: metaspace('always') }, true],
    ['no blank', { ...sentencePieceJson, normalizer: null, pre_tokenizer: metaspace('never') }, false],
  ])("SentencePiece's comes back, with %s", (_, json, opens) => {
    const names = { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' }
    const model = writeTokenizer({ 'tokenizer.json': json, 'tokenizer_config.json': { ...names, add_bos_token: true } })
    const vocabulary = vocabularyOf(model, loadTokenizer(model).vocabSize)
    expect(vocabulary.get('tokenizer.ggml.add_space_prefix')).toBe(opens)
    const file = at(`${_}.gguf`)
    writeGguf(file, vocabulary, [], () => [])
    const [ours, theirs] = [loadTokenizer(model), loadTokenizer(file)]
    for (const text of texts.filter((text) => !/(^|>) /.test(text))) {
      for (const specialTokens of [false, true]) {
        const ids = theirs.encode(text, { specialTokens })
        expect(ids).toEqual(ours.encode(text, { specialTokens }))
        expect(theirs.decode(ids)).toBe(ours.decode(ids))
      }
    }
    const { bosId, eosId, addBos, vocabSize } = ours
    expect(theirs).toMatchObject({ bosId, eosId, addBos, vocabSize })
  })

  test.each([
    [
      'of another kind than BPE',
      { ...sentencePieceJson, model: { ...sentencePieceJson.model, type: 'Unigram' } },
      'model',
    ],
    [
      "with a normalizer that is not SentencePiece's",
      { ...sentencePieceJson, normalizer: { type: 'NFKC' } },
      'normalizer',
    ],
    [
      'with merges that no scores give',
      {
        ...sentencePieceJson,
        model: { ...sentencePieceJson.model, merges: sentencePieceJson.model.merges.slice(1) },
      },
      'merges',
    ],
    [
      'a way to cut words that llama.cpp has no name for',
      { ...byteLevelJson, pre_tokenizer: { type: 'Whitespace' } },
      'pre_tokenizer',
    ],
    ['more tokens than the embedding has rows', byteLevelJson, 'vocab'],
  ])('that is %s is refused', (_, json, field) => {
    const model = writeTokenizer({ 'tokenizer.json': json })
    const details = expect.objectContaining({ field })
    expect(() => vocabularyOf(model, 272)).toThrow(expect.objectContaining({ code: 'E_TOKENIZER', details }))
  })
})

test('an output that holds files is refused', () => {
  const output = exported({ model: modelDir('llama2') })
  expect(() => exportGguf({ model: modelDir('llama2'), content: 'merged', type: 'f16', output })).toThrow(
    expect.objectContaining({ code: 'E_FILE' }),
  )
  expect(existsSync(path.join(output, 'model-f16.gguf'))).toBe(false)
})
