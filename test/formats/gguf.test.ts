import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { gguf } from '@huggingface/gguf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { LoramError } from '../../src/errors.ts'
import { openGguf } from '../../src/formats/gguf/file.ts'
import { checkpointRow, fileRow, fromGgufName, toGgufName } from '../../src/formats/gguf/names.ts'
import { llama3Factors, ropeOfFactors } from '../../src/formats/gguf/ropeFactors.ts'
import { rowReader } from '../../src/formats/gguf/rows.ts'
import { tensorTypes } from '../../src/formats/gguf/tensorTypes.ts'
import { type GgufEntryValue, writeGguf } from '../../src/formats/gguf/write.ts'
import { header, i32, meta, string, tensor, u32, u64 } from './ggufBytes.ts'
import { expectError, scratchFolder } from './scratch.ts'

const dir = scratchFolder()
const file = path.join(dir, 'file.gguf')
const open = (bytes: Uint8Array) => {
  writeFileSync(file, bytes)
  const opened = openGguf(file)
  opened.close()
  return opened
}

/** A valid file with every kind of metadata and some tensors. */
function sample(): Uint8Array {
  const metadata = new Map<string, GgufEntryValue>([
    ['general.architecture', 'llama'],
    ['llama.block_count', { u32: 2 }],
    ['llama.rope.freq_base', { f32: 500000 }],
    ['tokenizer.ggml.add_bos_token', true],
    ['tokenizer.ggml.tokens', ['a', 'ü', '<s>', '']],
    ['tokenizer.ggml.token_type', { i32s: [1, 1, 3, -4] }],
  ])
  const entries = [
    { name: 'token_embd.weight', shape: [3, 32], type: tensorTypes.Q8_0 },
    { name: 'output_norm.weight', shape: [5], type: tensorTypes.F32 },
  ]
  writeGguf(file, metadata, entries, (name) => [new Uint8Array(name === 'token_embd.weight' ? 3 * 34 : 20)])
  return new Uint8Array(readFileSync(file))
}

describe('what was written is read', () => {
  test('by the reader of Hugging Face too', async () => {
    const { metadata, tensors } = open(sample())
    const other = await gguf(file, { allowLocalFile: true })
    for (const [key, value] of metadata) expect(other.metadata[key as keyof typeof other.metadata], key).toEqual(value)
    expect(other.metadata).toMatchObject({ version: 3, kv_count: 6n, tensor_count: 2n })
    expect(other.tensorInfos).toHaveLength(tensors.size)
    for (const { name, shape, dtype, offset } of other.tensorInfos) {
      const ours = tensors.get(name)!
      expect(ours.shape).toEqual(shape.map(Number).reverse())
      expect(ours.type.id).toBe(dtype)
      expect(ours.offset).toBe(Number(other.tensorDataOffset + offset))
    }
  })

  test('whatever the metadata and shapes', () => {
    const values = fc.oneof(
      fc.string({ unit: 'grapheme' }),
      fc.boolean(),
      fc.array(fc.string({ unit: 'grapheme' })),
      fc.record({ u32: fc.nat(0xffffffff) }),
      fc.record({ i32s: fc.array(fc.integer()) }),
    )
    const keys = fc.string({ unit: 'grapheme' }).filter((key) => key !== 'general.alignment')
    const plain = (value: GgufEntryValue) =>
      typeof value === 'object' && !Array.isArray(value) ? Object.values(value)[0] : value
    const shapes = fc.dictionary(fc.string(), fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 }))
    fc.assert(
      fc.property(fc.dictionary(keys, values), shapes, (metadata, tensors) => {
        const entries = Object.entries(tensors).map(([name, shape]) => ({ name, shape, type: tensorTypes.F16 }))
        writeGguf(file, new Map(Object.entries(metadata)), entries, (name) => {
          const elements = tensors[name]!.reduce((a, b) => a * b)
          return [new Uint8Array(elements), new Uint8Array(elements)]
        })
        const opened = openGguf(file)
        opened.close()
        expect(Object.fromEntries(opened.metadata)).toEqual(
          Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, plain(value)])),
        )
        expect(Object.fromEntries(Array.from(opened.tensors, ([name, { shape }]) => [name, shape]))).toEqual(tensors)
      }),
      { numRuns: 60 },
    )
  })

  test('every type of metadata, in versions 2 and 3', () => {
    const nested = meta('nested', 9, Buffer.concat([u32(9), u64(1n), u32(0), u64(2n), Buffer.of(1, 2)]))
    const values = [
      meta('u8', 0, Buffer.of(255)),
      meta('i8', 1, Buffer.of(255)),
      meta('u16', 2, Buffer.of(0xff, 0xff)),
      meta('i16', 3, Buffer.of(0xff, 0xff)),
      meta('u32', 4, u32(0xffffffff)),
      meta('i32', 5, i32(-1)),
      meta('f32', 6, Buffer.from(Float32Array.of(1e-5).buffer)),
      meta('bool', 7, Buffer.of(1)),
      meta('string', 8, string('é')),
      meta('u64', 10, u64(2n ** 64n - 1n)),
      meta('small', 10, u64(7n)),
      meta('i64', 11, u64(2n ** 64n - 1n)),
      meta('f64', 12, Buffer.from(Float64Array.of(0.1).buffer)),
      nested,
    ]
    for (const version of [2, 3]) {
      expect(Object.fromEntries(open(header({ version, values })).metadata)).toEqual({
        u8: 255,
        i8: -1,
        u16: 65535,
        i16: -1,
        u32: 0xffffffff,
        i32: -1,
        f32: 1e-5,
        bool: true,
        string: 'é',
        u64: 2n ** 64n - 1n,
        small: 7,
        i64: -1,
        f64: 0.1,
        nested: [[1, 2]],
      })
    }
  })
})

describe('damage is refused', () => {
  const huge = u64(2n ** 40n)
  const one = tensor({ name: 'x' })
  const align = (value: number) => meta('general.alignment', 4, u32(value))
  test.each<[string, Uint8Array]>([
    ['not a GGUF file', Buffer.from('GGML and more')],
    ['version 1', header({ version: 1 })],
    ['version 4', header({ version: 4 })],
    ['a big-endian version', Buffer.concat([Buffer.from('GGUF'), Buffer.of(0, 0, 0, 3), u64(0n), u64(0n)])],
    ['2^40 tensors', header({ tensorCount: 2n ** 40n })],
    ['2^40 values', header({ valueCount: 2n ** 40n })],
    ['2^64 - 1 values', header({ valueCount: 2n ** 64n - 1n })],
    ['a string of 2^40 bytes', header({ values: [meta('x', 8, huge)] })],
    ['a key of 2^40 bytes', header({ values: [huge] })],
    ['an array of 2^40 elements', header({ values: [meta('x', 9, Buffer.concat([u32(0), huge]))] })],
    [
      'arrays in arrays in arrays',
      header({
        values: [
          meta(
            'x',
            9,
            Buffer.concat(
              Array(9)
                .fill([u32(9), u64(1n)])
                .flat(),
            ),
          ),
        ],
      }),
    ],
    ['an unknown type of metadata', header({ values: [meta('x', 13, u32(0))] })],
    ['a key twice', header({ values: [meta('x', 7, Buffer.of(1)), meta('x', 7, Buffer.of(1))] })],
    ['alignment 0', header({ values: [align(0)] })],
    ['alignment 3', header({ values: [align(3)] })],
    ['alignment 2^31', header({ values: [align(2 ** 31)] })],
    ['an alignment in words', header({ values: [meta('general.alignment', 8, string('32'))] })],
    ['a tensor twice', header({ tensors: [one, one], data: 64 })],
    ['no dimensions', header({ tensors: [tensor({ name: 'x', shape: [] })] })],
    ['five dimensions', header({ tensors: [tensor({ name: 'x', shape: [1n, 1n, 1n, 1n, 1n] })], data: 64 })],
    ['a dimension of 0', header({ tensors: [tensor({ name: 'x', shape: [4n, 0n] })], data: 64 })],
    ['dimensions that overflow', header({ tensors: [tensor({ name: 'x', shape: [2n ** 32n, 2n ** 32n] })], data: 64 })],
    ['an unknown tensor type', header({ tensors: [tensor({ name: 'x', type: 99 })], data: 64 })],
    ['a tensor type that is not read', header({ tensors: [tensor({ name: 'x', type: 10 })], data: 64 })],
    ['rows of half a block', header({ tensors: [tensor({ name: 'x', type: 8, shape: [48n] })], data: 64 })],
    ['an offset that is not aligned', header({ tensors: [tensor({ name: 'x', offset: 4n })], data: 64 })],
    ['tensors that overlap', header({ tensors: [one, tensor({ name: 'y' })], data: 64 })],
  ])('%s', (_, bytes) => {
    const before = process.memoryUsage().rss
    const began = performance.now()
    expectError(() => open(bytes), 'E_GGUF', {})
    expect(process.memoryUsage().rss - before).toBeLessThan(200e6)
    expect(performance.now() - began).toBeLessThan(1000)
  })

  test('a file cut short anywhere', () => {
    const whole = sample()
    for (let length = 0; length < whole.length - 12; length += 7) {
      writeFileSync(file, whole)
      truncateSync(file, length)
      expect(() => openGguf(file)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^E_(GGUF|TRUNCATED)$/) }),
      )
    }
  })

  test('an unreadable type by its name', () => {
    const bytes = header({ tensors: [tensor({ name: 'x', type: 10, shape: [256n] })], data: 128 })
    expectError(() => open(bytes), 'E_GGUF', { tensor: 'x', found: 'Q2_K' })
  })

  test('mutated files are read or refused, quickly and in little memory', () => {
    const whole = sample()
    const mutations = fc.array(fc.record({ at: fc.nat(whole.length - 1), byte: fc.nat(255) }), {
      minLength: 1,
      maxLength: 6,
    })
    const before = process.memoryUsage().rss
    fc.assert(
      fc.property(mutations, fc.nat(whole.length), (changes, length) => {
        const bytes = whole.slice()
        for (const { at, byte } of changes) bytes[at] = byte
        writeFileSync(file, length % 3 === 0 ? bytes.subarray(0, length) : bytes)
        try {
          const opened = openGguf(file)
          for (const each of opened.tensors.values()) rowReader(opened, each)(0)
          opened.close()
        } catch (error) {
          expect(error).toBeInstanceOf(LoramError)
          expect((error as LoramError).code).toMatch(/^E_(GGUF|TRUNCATED)$/)
        }
      }),
      { numRuns: 500 },
    )
    expect(process.memoryUsage().rss - before).toBeLessThan(200e6)
  })
})

describe('weights', () => {
  const blocks = JSON.parse(readFileSync(new URL('../fixtures/gguf/blocks.json', import.meta.url), 'utf8'))
  const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'))

  test.each(Object.keys(blocks.decode))('of %s are those of the reference, to the bit', (name) => {
    const { decode, blockBytes, blockElements } = tensorTypes[name as 'Q4_K']
    const bytes = bytesOf(blocks.decode[name].bytes)
    const values = new Float32Array((bytes.length / blockBytes) * blockElements)
    for (let block = 0; block * blockBytes < bytes.length; block++) {
      decode!(new DataView(bytes.buffer), block * blockBytes, values, block * blockElements)
    }
    expect(values).toEqual(new Float32Array(bytesOf(blocks.decode[name].values).buffer))
  })

  test('rows of q and k return to where they came from', () => {
    for (const headDim of [2, 8, 64]) {
      const rows = Array.from({ length: 3 * headDim }, (_, row) => row)
      expect(rows.map((row) => checkpointRow(fileRow(row, headDim), headDim))).toEqual(rows)
    }
    // a head of 8: its halves 0..3 and 4..7 are interleaved in the file
    expect([0, 1, 2, 3, 4, 5, 6, 7].map((row) => checkpointRow(row, 8))).toEqual([0, 4, 1, 5, 2, 6, 3, 7])
  })

  test('have names in both worlds', () => {
    for (const name of [
      'model.embed_tokens.weight',
      'model.norm.weight',
      'lm_head.weight',
      'model.layers.12.mlp.up_proj.weight',
    ]) {
      expect(fromGgufName(toGgufName(name))).toBe(name)
    }
    for (const name of [
      'blk.0.attn_rot.weight',
      'blk.x.attn_q.weight',
      'attn_q.weight',
      'output',
      '__proto__.weight',
    ]) {
      expect(fromGgufName(name)).toBeUndefined()
    }
  })

  test("Llama 3's scaling is known by its factors, other factors are not", () => {
    const published = { low_freq_factor: 1, high_freq_factor: 4 }
    for (const rope of [
      { ...published, factor: 8, original_max_position_embeddings: 8192 },
      { ...published, factor: 32, original_max_position_embeddings: 8192 },
    ]) {
      expect(ropeOfFactors(llama3Factors(500000, 128, rope), 500000, 128)).toEqual(rope)
    }
    const other = { low_freq_factor: 1, high_freq_factor: 2, factor: 8, original_max_position_embeddings: 8192 }
    expect(ropeOfFactors(llama3Factors(500000, 128, other), 500000, 128)).toBeUndefined()
  })
})
