import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { optionsOf } from '../../bench/lib/qualityRun.mjs'
import { type Recipe, recipes } from '../../bench/lib/recipes.mjs'
import { readResults } from '../../bench/lib/results.mjs'
import { trainLoRAMOptions } from '../../src/options/index.ts'
import { cpu } from '../../src/tensor/device.ts'
import { validate } from '../../src/validate.ts'
import { writeTinyModel } from '../cli/support.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const scratch = mkdtempSync(path.join(os.tmpdir(), 'loram-quality-'))
const at = (name: string) => path.join(scratch, name)
const rows = ['base', 'lora', 'unstructured-magnitude']

beforeAll(() => {
  writeTinyModel(at('model'))
  for (const folder of ['gsm8k', 'wikitext-2']) mkdirSync(at(folder))
  const questions = [1, 2, 3].map((i) => JSON.stringify({ question: `${i}?`, answer: String(i) })).join('\n')
  for (const part of ['train', 'test']) writeFileSync(at(`gsm8k/${part}.jsonl`), questions)
  for (const part of ['valid', 'test']) writeFileSync(at(`wikitext-2/${part}.txt`), 'words and words '.repeat(100))
  writeFileSync(at('brown.jsonl'), JSON.stringify({ text: 'some words' }))
  writeFileSync(at('code-alpaca-1k.json'), JSON.stringify([{ instruction: 'add', input: '1, 2', output: '3' }]))
})
afterAll(() => rmSync(scratch, { recursive: true }))

const run = (script: string, ...args: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(root, 'bench', script), ...args], {
    encoding: 'utf8',
  })
  return { status, lines: stdout.split('\n').filter(Boolean), stderr }
}
const quality = (...args: string[]) => {
  const folders = ['--model', at('model'), '--data', scratch, '--work', at('work'), '--output', at('quality.jsonl')]
  return run('quality.mjs', ...folders, '--device', 'cpu', '--max-steps', '2', ...args)
}

test('measures rows, each once, and makes a table of them', () => {
  const { status, lines, stderr } = quality(...rows)
  expect(status, stderr).toBe(0)
  const results = readResults(at('quality.jsonl'))
  expect(lines.map((line) => JSON.parse(line))).toEqual(results)
  expect(results.map(({ row }) => row)).toEqual(rows)
  for (const { perplexity } of results) expect(Object.values(perplexity)).toEqual(Array(3).fill(expect.any(Number)))
  expect(results[1]).toMatchObject({ steps: 2, scale: 1, maxSteps: 2, commit: expect.any(String) })
  expect(results[1].perplexity.gsm8k).not.toBe(results[0].perplexity.gsm8k)
  expect(quality(...rows).lines).toEqual([])

  writeFileSync(at('page.md'), 'before\n<!-- quality -->\n<!-- end -->\nafter\n')
  expect(run('qualityTable.mjs', at('quality.jsonl'), at('page.md')).status).toBe(0)
  const page = readFileSync(at('page.md'), 'utf8')
  expect(page).toMatch(/^before\n<!-- quality -->\nMeasured on .*\n\n(\| .* \|\n){5}<!-- end -->\nafter\n$/)
  expect(page).toContain(`| ${results[0].perplexity.gsm8k.toFixed(2)}`)
  expect(page).not.toMatch(/undefined|NaN/)
})

test('ends without a row that there is no time for, or that there is not', () => {
  const { status, lines, stderr } = quality('lora', '--again', '--limit-seconds', '0.01')
  expect(stderr).toContain('out of time in lora, seed 42')
  expect([status, lines]).toEqual([0, []])
  expect(quality('unknown')).toMatchObject({ status: 1, stderr: expect.stringContaining('no row unknown') })
})

const trained = Object.entries(recipes as Record<string, Recipe>).filter(([, { options }]) => options)
test.each(trained)('%s is a recipe that trainLoRAM takes', (_name, { options }) => {
  const setting = {
    model: 'model',
    data: { train: 'train.jsonl', text: ['text.txt'] },
    device: cpu,
    seed: 1,
    maxSteps: 2,
  }
  expect(() => validate(trainLoRAMOptions, { ...optionsOf(options, setting), output: 'out' })).not.toThrow()
})
