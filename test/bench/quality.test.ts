import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, expect, test } from 'vitest'
import { openJudge, prepareData } from '../../bench/lib/qualityData.mjs'
import { optionsOf, runRecipe } from '../../bench/lib/qualityRun.mjs'
import { factorName, factorOf, type Recipe, recipes } from '../../bench/lib/recipes.mjs'
import { appendResult, readResults } from '../../bench/lib/results.mjs'
import { openDevice } from '../../dist/tensor/device.js'
import { trainLoRAMOptions } from '../../src/options/index.ts'
import { cpu } from '../../src/tensor/device.ts'
import { validate } from '../../src/validate.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const scratch = scratchFolder()
const at = (name: string) => path.join(scratch, name)
const rows = ['base', 'lora', 'unstructured-magnitude']

beforeAll(() => {
  writeTinyModel(at('model'))
  for (const folder of ['gsm8k', 'wikitext-2']) mkdirSync(at(folder))
  const questions = [1, 2, 3].map((i) => JSON.stringify({ question: `${i}?`, answer: `#### ${i}` })).join('\n')
  for (const part of ['train', 'test']) writeFileSync(at(`gsm8k/${part}.jsonl`), questions)
  for (const part of ['valid', 'test']) writeFileSync(at(`wikitext-2/${part}.txt`), 'words and words '.repeat(100))
  writeFileSync(at('brown.jsonl'), JSON.stringify({ text: 'some words' }))
  writeFileSync(at('code-alpaca-1k.json'), JSON.stringify([{ instruction: 'add', input: '1, 2', output: '3' }]))
})

const run = (script: string, ...args: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(root, 'bench', script), ...args], {
    encoding: 'utf8',
  })
  return { status, lines: stdout.split('\n').filter(Boolean), stderr }
}
const quality = (...args: string[]) => {
  const folders = ['--model', at('model'), '--data', scratch, '--work', at('work'), '--output', at('quality.jsonl')]
  return run('quality.mjs', ...folders, '--device', 'cpu', '--max-steps', '2', '--questions', '2', ...args)
}

const pageOf = (results: string) => {
  writeFileSync(at('page.md'), 'before\n<!-- quality -->\n<!-- end -->\nafter\n')
  expect(run('qualityTable.mjs', at(results), at('page.md')).status).toBe(0)
  return readFileSync(at('page.md'), 'utf8')
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
  for (const { exactMatch } of results) expect(exactMatch).toMatchObject({ questions: 2, accuracy: 0 })
  expect(quality(...rows).lines).toEqual([])

  const page = pageOf('quality.jsonl')
  expect(page).toMatch(/^before\n<!-- quality -->\nMeasured on .*\n\n(\| .* \|\n){5}<!-- end -->\nafter\n$/)
  expect(page).toContain(`| ${results[0].perplexity.gsm8k.toFixed(2)}`)
  expect(page.match(/ \| 0\.0 ± 0\.0 % \| /g)).toHaveLength(3)
  expect(page).not.toMatch(/undefined|NaN/)
})

test.each([
  [0.5, 0.5, 0.5, 0.5],
  [{ attention: 0.5 }, 0.5, 0.5, 1],
  [{ attention: 0.5, mlp: 0.75, v_proj: 2 }, 0.5, 2, 0.75],
])('a factor of %j multiplies q_proj, v_proj and up_proj by %d, %d and %d', (factor, ...wanted) => {
  const modules = ['self_attn.q_proj', 'self_attn.v_proj', 'mlp.up_proj'].map((name) => `model.layers.0.${name}`)
  expect(modules.map((module) => factorOf(factor, module))).toEqual(wanted)
})

test('measures the factors of a row, and has them in the table', async () => {
  const data = prepareData(scratch, at('work'))
  const judge = await openJudge(at('model'), data.tests, openDevice('cpu'), { testRows: 3, questions: 0 })
  const { factors } = recipes['rotate-preserve-unscaled'] as Required<Recipe>
  const recipe = { ...(recipes['unstructured-magnitude'] as Recipe), factors }
  const setting = { model: at('model'), data, judge, device: cpu, seed: 1, maxSteps: 2, work: at('work') }
  const result = await runRecipe(recipe, { ...setting, signal: neverAborted })
  expect(Object.keys(result.factors).sort()).toEqual(factors.map(factorName).sort())
  expect(result.factors[1]).toEqual(result.perplexity)
  expect(result.factors['attention 0.5, mlp 1']).not.toEqual(result.factors['attention 1, mlp 0.5'])

  for (const line of [
    { row: 'base', ...result },
    { row: 'rotate-preserve-unscaled', ...result },
  ]) {
    appendResult(at('factors.jsonl'), line)
  }
  const page = pageOf('factors.jsonl')
  for (const times of ['0.25', 'attention 0.5, mlp 1']) expect(page).toContain(`preserved, times ${times} |`)
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
