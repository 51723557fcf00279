import { readFileSync } from 'node:fs'
import path from 'node:path'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { streamDecoder } from '../../src/tokenizer/streamDecoder.ts'
import { loadTokenizer, type Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import {
  byteLevelJson,
  byteLevelTokenizer,
  hasSmolLM2,
  sentencePieceJson,
  sentencePieceTokenizer,
  shared,
  smolLM2Dir,
  writeTokenizer,
} from './tokenizers.ts'

const kinds = [
  ['byte-level', byteLevelTokenizer(), byteLevelJson],
  ['SentencePiece', sentencePieceTokenizer(), sentencePieceJson],
] as const

describe.each(kinds)('%s', (_, tokenizer, json) => {
  // a leading blank is what SentencePiece decoders strip
  const text = fc.string({ unit: 'binary' }).filter((text) => !text.startsWith(' ') && !text.includes('▁'))

  test('decoding gives back what was encoded, and the ids are the library’s', () => {
    const library = new HuggingFaceTokenizer(json, {})
    fc.assert(
      fc.property(text, (text) => {
        const ids = tokenizer.encode(text)
        expect(tokenizer.decode(ids)).toBe(text)
        expect(ids).toEqual(library.encode(text).ids)
      }),
    )
  })

  test('text that goes on from other text gets no blank of its own', () => {
    const ids = [...tokenizer.encode('say '), ...tokenizer.encode('Hello', { after: 'text' })]
    expect(tokenizer.decode(ids)).toBe('say Hello')
  })

  test('special tokens are parsed only where that is asked for', () => {
    const parsed = tokenizer.encode('<s>a</s>', { specialTokens: true })
    expect([parsed[0], parsed.at(-1)]).toEqual([tokenizer.bosId, tokenizer.eosId])
    const plain = tokenizer.encode('<s>a</s>')
    expect(plain).not.toContain(tokenizer.bosId)
    expect(tokenizer.decode(plain)).toBe('<s>a</s>')
    expect(tokenizer.decode(parsed)).toBe('a')
    expect(tokenizer.decode(parsed, { skipSpecialTokens: false })).toMatch(/^<s> ?a<\/s>$/)
  })

  test('a stream gives the same text in whole characters', () => {
    fc.assert(
      fc.property(text, (text) => {
        const stream = streamDecoder(tokenizer)
        const parts = tokenizer.encode(text).map((id) => stream.push(id))
        expect(parts.join('') + stream.end()).toBe(text)
        expect(parts.filter((part) => /\p{Surrogate}/u.test(part))).toEqual([])
        expect(parts.join('').includes('\uFFFD')).toBe(text.includes('\uFFFD'))
      }),
    )
  })

  test('an endless word takes no endless time', () => {
    const word = 'abcdefgh'.repeat(25_000)
    expect(tokenizer.decode(tokenizer.encode(word))).toBe(word)
  }, 10_000)

  test('long text is cut where words end', () => {
    const sentence = 'say the Hello '
    const ids = tokenizer.encode(sentence.repeat(40_000))
    const period =
      tokenizer.encode(` ${sentence}${sentence}`, { after: 'text' }).length -
      tokenizer.encode(` ${sentence}`, { after: 'text' }).length
    expect(ids.length).toBe(tokenizer.encode(sentence).length + 39_999 * period)
  })
})

test('decoding leaves blanks before punctuation, whatever the configuration says', () => {
  const tokenizer = byteLevelTokenizer({ clean_up_tokenization_spaces: true })
  expect(tokenizer.decode(tokenizer.encode('Hello , you .'))).toBe('Hello , you .')
})

test('an incomplete character shows at the end of a stream', () => {
  const tokenizer = byteLevelTokenizer()
  const stream = streamDecoder(tokenizer)
  expect(
    tokenizer
      .encode('€')
      .slice(0, 2)
      .map((id) => stream.push(id)),
  ).toEqual(['', ''])
  expect(stream.end()).toBe('\uFFFD')
})

test('ids come from the tokenizer first, from the model’s configuration where that lacks them', () => {
  const own = loadTokenizer(
    writeTokenizer({
      'tokenizer.json': byteLevelJson,
      'tokenizer_config.json': { eos_token: { content: '<|eot_id|>' } },
      'special_tokens_map.json': { bos_token: '<|begin_of_text|>' },
      'config.json': { bos_token_id: 1, eos_token_id: 2, pad_token_id: 7 },
      'generation_config.json': { eos_token_id: [266, 272] },
    }),
  )
  expect(own).toMatchObject({ bosId: 269, eosId: 272, eosIds: [266, 272], padId: 7, vocabSize: 273, addBos: false })
  const bare = loadTokenizer(
    writeTokenizer({ 'tokenizer.json': byteLevelJson, 'config.json': { bos_token_id: 265, eos_token_id: 266 } }),
  )
  expect(bare).toMatchObject({ bosId: 265, eosId: 266, eosIds: [266], padId: 266 })
  expect(bare.specialTokens).toEqual({ bos_token: '<s>', eos_token: '</s>' })
})

test('a post-processor that writes bos counts as adding it', () => {
  const postProcessor = {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: {},
  }
  const files = (config: object) => ({
    'tokenizer.json': { ...byteLevelJson, post_processor: postProcessor },
    'tokenizer_config.json': { bos_token: '<s>', ...config },
  })
  expect(loadTokenizer(writeTokenizer(files({}))).addBos).toBe(true)
  expect(loadTokenizer(writeTokenizer(files({ add_bos_token: false }))).addBos).toBe(false)
})

test.each([
  ['no file', {}, /has no tokenizer.json/],
  ['cut short', { 'tokenizer.json': '{"model": {' }, /tokenizer.json cannot be read/],
  ['not an object', { 'tokenizer.json': '[]' }, /not an object/],
  ['without a model', { 'tokenizer.json': { ...byteLevelJson, model: null } }, /cannot be used/],
  ['of an unknown kind', { 'tokenizer.json': { ...byteLevelJson, pre_tokenizer: { type: 'Odd' } } }, /Odd/],
  ['bad configuration', { 'tokenizer.json': byteLevelJson, 'tokenizer_config.json': 'x' }, /tokenizer_config.json/],
])('a tokenizer that is damaged (%s) is refused', (_, files, message) => {
  expect(() => loadTokenizer(writeTokenizer(files))).toThrow(
    expect.objectContaining({ code: 'E_TOKENIZER', message: expect.stringMatching(message) }),
  )
})

describe.skipIf(!hasSmolLM2)('SmolLM2 (needs ../shared)', () => {
  let dir: string
  let tokenizer: Tokenizer
  beforeAll(() => {
    dir = smolLM2Dir()
    tokenizer = loadTokenizer(dir)
  })

  test('encodes running text as the library does when it gets it whole', () => {
    const text = readFileSync(path.join(shared, 'data/wikitext-2/test.txt'), 'utf8').slice(0, 600_000)
    const library = new HuggingFaceTokenizer(JSON.parse(readFileSync(path.join(dir, 'tokenizer.json'), 'utf8')), {})
    const ids = tokenizer.encode(text)
    expect(ids).toEqual(library.encode(text).ids)
    expect(tokenizer.decode(ids)).toBe(text)
  })

  test('its ids', () => {
    expect(tokenizer).toMatchObject({ bosId: 1, eosId: 2, eosIds: [2], padId: 2, vocabSize: 49152, addBos: false })
  })
})
