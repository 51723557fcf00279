#!/usr/bin/env node
// Writes the table of quality from its results, between the marks of a page.
//   npm run bench:quality:table -- [RESULTS] [PAGE]     default bench/results/quality.jsonl, docs/smollm2.md
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { writeFileAtomic } from '../dist/formats/atomic.js'
import { recipes } from './lib/recipes.mjs'
import { readResults } from './lib/results.mjs'

const here = (name) => fileURLToPath(new URL(name, import.meta.url))
const [file = here('results/quality.jsonl'), page = here('../docs/smollm2.md')] = process.argv.slice(2)
const lines = existsSync(file) ? readResults(file) : []
const linesOf = (row) => [
  ...new Map(lines.filter((line) => line.row === row).map((line) => [line.seed, line])).values(),
]
if (linesOf('base').length === 0) {
  console.error(`${file} has no results of the row base: npm run bench:quality -- --help`)
  process.exit(1)
}

const tests = ['gsm8k', 'code', 'wikitext']
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
const meanOf = (row, test) => mean(linesOf(row).map(({ perplexity }) => perplexity[test]))
const base = Object.fromEntries(tests.map((test) => [test, meanOf('base', test)]))
const ceiling = linesOf('lora').length > 0 ? meanOf('lora', 'gsm8k') : Number.NaN

/** The mean over seeds, and how far from it the farthest seed is. */
function spread(values) {
  const middle = mean(values)
  const farthest = Math.max(...values.map((value) => Math.abs(value - middle)))
  const digits = middle < 10 ? 3 : 2
  return values.length === 1 ? middle.toFixed(digits) : `${middle.toFixed(digits)} ± ${farthest.toFixed(digits)}`
}

const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)} %` : '')

/** How much worse the worse of the two sets is that were not trained on. */
const lossOutside = ({ code, wikitext }) => Math.max(code / base.code, wikitext / base.wikitext) - 1

function rowOf(title, measured, { parameters, scale, tokensPerSecond } = {}) {
  const perplexity = Object.fromEntries(tests.map((test) => [test, mean(measured.map((one) => one[test]))]))
  const closed = (base.gsm8k - perplexity.gsm8k) / (base.gsm8k - ceiling)
  return [
    title,
    parameters ? `${(parameters / 1e6).toFixed(1)} M` : '',
    scale ?? '',
    ...tests.map((test) => spread(measured.map((one) => one[test]))),
    percent(closed),
    percent(lossOutside(perplexity)),
    tokensPerSecond ? `${Math.round(tokensPerSecond / 1000)} k` : '',
    measured.length,
  ]
}

const rows = Object.entries(recipes).flatMap(([name, { title, factors = [] }]) => {
  const found = linesOf(name)
  if (found.length === 0) return []
  const scale = [...new Set(found.map((line) => line.scale))].sort().join(', ')
  const atFactors = factors.map((factor) =>
    rowOf(
      `${title}, times ${factor}`,
      found.map((line) => line.factors[factor]),
    ),
  )
  return [rowOf(title, found.map(({ perplexity }) => perplexity), { ...found[0], scale }), ...atFactors] // biome-ignore format: a row
})
const head = [
  'model',
  'trained on',
  'factor',
  'GSM8K',
  'code',
  'WikiText-2',
  'gap closed',
  'worse outside',
  'tokens/s',
  'seeds',
]
const table = [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
const { gpu, cpu, commit } = lines.at(-1)
const caption = `Measured on ${gpu ?? cpu} at commit ${commit}.`
const marks = /<!-- quality -->\n[\s\S]*?<!-- end -->/
writeFileAtomic(
  page,
  readFileSync(page, 'utf8').replace(marks, `<!-- quality -->\n${caption}\n\n${table}\n<!-- end -->`),
)
