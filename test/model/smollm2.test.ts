import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { evaluate } from 'loram'
import { beforeAll, describe, expect, test } from 'vitest'
import { toBf16, toFloat32 } from '../../src/formats/float32.ts'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts'
import { scratchFolder } from '../formats/scratch.ts'

const shared = fileURLToPath(new URL('../../../shared', import.meta.url))
const gguf = path.join(shared, 'models/SmolLM2-135M-Instruct.Q4_1.gguf')
const isThere = existsSync(gguf)

describe.skipIf(!isThere)(`SmolLM2-135M (skipped: ${isThere ? '' : `${gguf} is not there`})`, () => {
  const root = scratchFolder()
  const model = path.join(root, 'model')
  const text = path.join(root, 'wikitext.txt')
  beforeAll(() => {
    execFileSync(process.execPath, [path.join(shared, 'tools/gguf-to-hf.mjs'), gguf, model])
    writeFileSync(text, readFileSync(path.join(shared, 'data/wikitext-2/test.txt'), 'utf8').slice(0, 60_000))
  })

  // 29.595 is what transformers gives in fp32 for the first 8192 tokens as 16 rows of 512. For 2 of these rows loram gives
  // the other number, in a run whose 16 rows agree.
  const [rows, expected] = process.env.LORAM_TEST_SMOLLM2 ? [16, 29.595] : [2, 20.453]
  test(`has the perplexity on ${rows} x 512 tokens of WikiText-2 that transformers gives it`, {
    timeout: 240_000,
  }, async () => {
    const options = { model, data: text, format: 'text', sequenceLength: 512, limit: rows, device: 'cpu' } as const
    const { perplexity, tokens, targets } = await evaluate(options)
    expect([tokens, targets]).toEqual([rows * 512, rows * 511])
    expect(Math.abs(perplexity / expected - 1)).toBeLessThan(5e-4)
  })

  test('read from its GGUF file has the same weights, tokens and perplexity', { timeout: 240_000 }, async () => {
    const [file, folder] = [openCheckpoint(gguf), openCheckpoint(model)]
    for (const [name, { dtype }] of folder.tensors) {
      const [ours, theirs] = [file.read(name), folder.read(name)]
      // norms, which are f32 in the file, were rounded when the folder was made
      if (file.tensors.get(name)!.dtype === dtype) expect(Buffer.compare(ours, theirs), name).toBe(0)
      else expect(toBf16(toFloat32(ours, 'f32')), name).toEqual(new Uint16Array(theirs.buffer))
    }
    for (const { close } of [file, folder]) close()

    const [ours, theirs] = [loadTokenizer(gguf), loadTokenizer(model)]
    for (const line of readFileSync(text, 'utf8').split('\n')) expect(ours.encode(line)).toEqual(theirs.encode(line))
    const { bosId, eosIds, padId, addBos, chatTemplate, specialTokens } = theirs
    expect(ours).toMatchObject({ bosId, eosIds, padId, addBos, chatTemplate, specialTokens })

    const options = { data: text, format: 'text', sequenceLength: 128, limit: 2, device: 'cpu' } as const
    const perplexity = async (source: string) => (await evaluate({ ...options, model: source })).perplexity
    expect((await perplexity(gguf)) / (await perplexity(model))).toBeCloseTo(1, 3)
  })
})
