import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { generateDefaults, generateText, generateTokens } from '../../src/infer/generate.ts'
import { argmax } from '../../src/infer/sample.ts'
import type { Model } from '../../src/model/model.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import { goldenPath } from '../golden.ts'
import { forwardLogits, loadDirectory } from '../model/support.ts'
import { generator, onEveryDevice, readGolden } from '../ops/support.ts'

const golden = Array.from(readGolden('models', 'llama3', 'golden.safetensors')('greedy.ids').ints)
const prompt = golden.slice(0, 6)
const answer = golden.slice(6)

/** A tokenizer whose token `id` stands for these bytes, as those of byte-level tokenizers do. */
const tokenizerOf = (bytesOf: (id: number) => Buffer) =>
  ({ decode: (ids: ArrayLike<number>) => Buffer.concat(Array.from(ids, bytesOf)).toString() }) as Tokenizer
const numbers = tokenizerOf((id) => Buffer.from(`<${id}>`))
const whole = numbers.decode(answer)

onEveryDevice('generation', (device) => {
  const loaded = loadDirectory(goldenPath('models', 'llama3'), device)
  const endingWith = (eosTokenIds: number[]): Model => ({ ...loaded, config: { ...loaded.config, eosTokenIds } })
  const endless = endingWith([])
  const collect = (options: Partial<typeof generateDefaults> = {}, tokenizer = numbers) => {
    const tokenIds: number[] = []
    const all = { ...generateDefaults, maxNewTokens: answer.length, ...options }
    const pieces = Array.from(generateText(endless, tokenizer, prompt, all, tokenIds))
    return { pieces, tokenIds }
  }

  describe('of tokens', () => {
    test.each([0, 1, 5])('ends after %d of them', (maxNewTokens) => {
      const tokens = Array.from(generateTokens(endless, prompt, { ...generateDefaults, maxNewTokens }))
      expect(tokens).toEqual(answer.slice(0, maxNewTokens))
    })

    test('ends before any of the end tokens', () => {
      const third = answer[2]!
      const model = endingWith([159, third])
      const tokens = Array.from(generateTokens(model, prompt, { ...generateDefaults, maxNewTokens: 16 }))
      expect(tokens).toEqual(answer.slice(0, answer.indexOf(third)))
    })

    test('goes on after a prompt of several pieces as after one that is read whole', () => {
      const next = generator(1)
      const long = Array.from({ length: 1100 }, () => Math.floor((next() + 1) * 80))
      const ids = Int32Array.from(long)
      const logits = forwardLogits(loaded, {
        ids,
        targets: ids,
        positions: ids.map((_, i) => i),
        bounds: Int32Array.of(0, ids.length),
      })
      const last = logits.subarray(-loaded.config.vocabSize)
      const [token] = generateTokens(endless, long, { ...generateDefaults, maxNewTokens: 1 })
      expect(token).toBe(argmax(last))
    })

    test('draws the same for the same seed', () => {
      const drawn = (seed: number) =>
        Array.from(generateTokens(endless, prompt, { ...generateDefaults, maxNewTokens: 12, temperature: 1, seed }))
      expect(drawn(1)).toEqual(drawn(1))
      expect(drawn(2)).not.toEqual(drawn(1))
    })
  })

  describe('of text', () => {
    test('gives out all of it, a piece for each token', () => {
      const { pieces, tokenIds } = collect()
      expect(pieces).toEqual(answer.map((id) => `<${id}>`))
      expect(tokenIds).toEqual(answer)
    })

    test('ends before a stop text that begins inside of one token and ends inside of another', () => {
      const stop = whole.slice(whole.indexOf('>', whole.length / 2) - 1).slice(0, 4)
      expect(stop).toMatch(/^\d><\d$/)
      const { pieces, tokenIds } = collect({ stop: [stop] })
      expect(pieces.join('')).toBe(whole.slice(0, whole.indexOf(stop)))
      expect(tokenIds.length).toBeLessThan(answer.length)
      expect(pieces).not.toContain('')
    })

    test('ends with the first token that completes any stop text, before where that begins', () => {
      const part = fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 12 }))
      const present = fc.array(
        part.map(([from, length]) => whole.slice(from, from + length)),
        { maxLength: 3 },
      )
      const soFar = answer.map((_, i) => numbers.decode(answer.slice(0, i + 1)))
      fc.assert(
        fc.property(present, fc.constantFrom([], ['no such text']), (present, absent) => {
          const stop = [...present, ...absent]
          const { pieces } = collect({ stop })
          const text = soFar.find((text) => stop.some((s) => text.includes(s))) ?? whole
          const ends = stop.map((s) => text.indexOf(s)).filter((at) => at >= 0)
          expect(pieces.join('')).toBe(text.slice(0, Math.min(text.length, ...ends)))
        }),
        { numRuns: 50 },
      )
    })

    test('gives out the beginning of a stop text that does not come', () => {
      const { pieces } = collect({ stop: [`${whole.slice(-3)}!`] })
      expect(pieces.join('')).toBe(whole)
    })

    test('waits for all bytes of a character', () => {
      const euro = Buffer.from('€')
      const bytes = tokenizerOf((id) => euro.subarray(answer.indexOf(id), answer.indexOf(id) + 1))
      expect(collect({ maxNewTokens: euro.length }, bytes).pieces).toEqual(['€'])
    })

    test('ends before a stop text in a token that ends with half a character', () => {
      const half = Buffer.from('END€').subarray(0, 4)
      const { pieces } = collect(
        { stop: ['END'], maxNewTokens: 2 },
        tokenizerOf((id) => (id === answer[1] ? half : Buffer.from('text '))),
      )
      expect(pieces.join('')).toBe('text ')
    })
  })
})
