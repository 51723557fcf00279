import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { evaluate } from 'loram'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const shared = fileURLToPath(new URL('../../../shared', import.meta.url))
const gguf = path.join(shared, 'models/SmolLM2-135M-Instruct.Q4_1.gguf')
const isThere = existsSync(gguf)

describe.skipIf(!isThere)(`SmolLM2-135M (skipped: ${isThere ? '' : `${gguf} is not there`})`, () => {
  const root = mkdtempSync(path.join(os.tmpdir(), 'loram-smollm2-'))
  const model = path.join(root, 'model')
  const text = path.join(root, 'wikitext.txt')
  beforeAll(() => {
    execFileSync(process.execPath, [path.join(shared, 'tools/gguf-to-hf.mjs'), gguf, model])
    writeFileSync(text, readFileSync(path.join(shared, 'data/wikitext-2/test.txt'), 'utf8').slice(0, 60_000))
  })
  afterAll(() => rmSync(root, { recursive: true }))

  // 29.595 is what transformers gives in fp32 for the first 8192 tokens as 16 rows of 512
  test('has the perplexity on WikiText-2 that transformers gives it', { timeout: 240_000 }, async () => {
    const options = { model, data: text, format: 'text', sequenceLength: 512, limit: 16, device: 'cpu' } as const
    const { perplexity, tokens, targets } = await evaluate(options)
    expect([tokens, targets]).toEqual([8192, 16 * 511])
    expect(Math.abs(perplexity / 29.595 - 1)).toBeLessThan(5e-4)
  })
})
