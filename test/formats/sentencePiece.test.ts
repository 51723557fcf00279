import path from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { mergesOf, scoresOf } from '../../src/formats/gguf/sentencePiece.ts'
import { tokenKinds } from '../../src/formats/gguf/tokenizer.ts'
import { type GgufEntryValue, writeGguf } from '../../src/formats/gguf/write.ts'
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts'
import { scratchFolder } from './scratch.ts'

const characters = ['\u2581', 'a', 'b', '😀']
const piece = fc.array(fc.constantFrom(...characters), { minLength: 2, maxLength: 4 }).map((parts) => parts.join(''))
/** Tokens of which no two have the same score. */
const scoring = fc
  .uniqueArray(piece, { maxLength: 12 })
  .map((pieces) => new Map([...pieces, ...characters].map((token, i) => [token, -i])))

/** What SentencePiece does, by its definition: joins the neighbours with the highest score, of equals the first. */
function encode(scores: ReadonlyMap<string, number>, text: string): string[] {
  const parts = [...text]
  for (;;) {
    const joined = parts.slice(1).map((part, i) => scores.get(parts[i]! + part) ?? Number.NEGATIVE_INFINITY)
    const best = Math.max(...joined)
    if (best === Number.NEGATIVE_INFINITY) return parts
    const at = joined.indexOf(best)
    parts.splice(at, 2, parts[at]! + parts[at + 1]!)
  }
}

test('a vocabulary in a GGUF file cuts texts as SentencePiece does', () => {
  const file = path.join(scratchFolder(), 'vocabulary.gguf')
  const texts = fc.array(fc.constantFrom(' ', ...characters.slice(1)), { maxLength: 12 }).map((parts) => parts.join(''))
  fc.assert(
    fc.property(scoring, fc.array(texts, { minLength: 5, maxLength: 5 }), (scores, samples) => {
      const tokens = ['<unk>', ...scores.keys()]
      const kinds = tokens.map((_, id) => (id === 0 ? tokenKinds.unknown : tokenKinds.normal))
      const metadata = new Map<string, GgufEntryValue>([
        ['tokenizer.ggml.model', 'llama'],
        ['tokenizer.ggml.tokens', tokens],
        ['tokenizer.ggml.scores', { f32s: [0, ...scores.values()] }],
        ['tokenizer.ggml.token_type', { i32s: kinds }],
      ])
      writeGguf(file, metadata, [], () => [])
      const tokenizer = loadTokenizer(file)
      for (const text of samples) {
        const wanted = text === '' ? [] : encode(scores, ` ${text}`.replaceAll(' ', '\u2581'))
        expect(tokenizer.encode(text).map((id) => tokens[id])).toEqual(wanted)
      }
    }),
    { numRuns: 60 },
  )
})

test('merges give back scores that give them, and others give none', () => {
  fc.assert(
    fc.property(scoring, (scores) => {
      const merges = mergesOf(scores)
      const restored = scoresOf(new Set(scores.keys()), merges)!
      expect(mergesOf(restored)).toEqual(merges)
      if (merges.length > 0) expect(scoresOf(new Set(scores.keys()), merges.slice(1))).toBeUndefined()
    }),
  )
})
