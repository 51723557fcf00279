#!/usr/bin/env node
// Writes the table of quality from its results, between the marks of a page.
//   npm run bench:quality:table -- [RESULTS] [PAGE]     default bench/results/quality.jsonl, docs/smollm2.md
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { writeFileAtomic } from '../dist/formats/atomic.js'
import { factorName, recipes } from './lib/recipes.mjs'
import { readResults } from './lib/results.mjs'

const here = (name) => fileURLToPath(new URL(name, import.meta.url))
const [file = here('results/quality.jsonl'), page = here('../docs/smollm2.md')] = process.argv.slice(2)
const all = existsSync(file) ? readResults(file) : []
/** Those that were measured where the last one was, and of as much. */
const lines = all.filter((line) =>
  ['gpu', 'cpu', 'testRows', 'questions', 'maxSteps'].every((key) => line[key] === all.at(-1)[key]),
)
/** The newest of each seed. */
const linesOf = (row) =>
  Array.from(new Map(lines.filter((line) => line.row === row).map((line) => [line.seed, line])).values())
if (linesOf('base').length === 0) {
  console.error(`${file} has no results of the row base: npm run bench:quality -- --help`)
  process.exit(1)
}

const tests = ['gsm8k', 'code', 'wikitext']
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
const meansOf = (measured) => Object.fromEntries(tests.map((test) => [test, mean(measured.map((one) => one[test]))]))
const perplexities = (row) => linesOf(row).map(({ perplexity }) => perplexity)
const base = meansOf(perplexities('base'))
const ceiling = meansOf(perplexities('lora')).gsm8k

/** The mean over seeds, and how far from it the farthest seed is. */
function spread(values) {
  const middle = mean(values)
  const farthest = Math.max(...values.map((value) => Math.abs(value - middle)))
  return [middle, ...(values.length > 1 ? [farthest] : [])]
    .map((value) => value.toFixed(middle < 10 ? 3 : 2))
    .join(' ± ')
}

/** The share of right answers over seeds, which all have the same questions, and the standard error that these give it. */
function rightAnswers(scores) {
  if (scores.length === 0) return ''
  const [accuracy, error] = ['accuracy', 'standardError'].map((key) => mean(scores.map((score) => score[key])))
  return `${(100 * accuracy).toFixed(1)} ± ${(100 * error).toFixed(1)} %`
}

const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : '')

/** One of a row, or of a factor on its update. */
function cells(title, measured, { parameters, scale = '', exactMatches = [] } = {}) {
  const means = meansOf(measured)
  return [
    title,
    parameters ? `${(parameters / 1e6).toFixed(1)} M` : '',
    scale,
    ...tests.map((test) => spread(measured.map((one) => one[test]))),
    rightAnswers(exactMatches),
    percent((base.gsm8k - means.gsm8k) / (base.gsm8k - ceiling)),
    percent(Math.max(means.code / base.code, means.wikitext / base.wikitext) - 1),
    measured.length,
  ]
}

const rows = Object.entries(recipes).flatMap(([name, { title, factors = [] }]) => {
  const found = linesOf(name)
  if (found.length === 0) return []
  const scale = Array.from(
    new Set(found.flatMap((line) => (line.scale === undefined ? [] : factorName(line.scale)))),
  ).join(' or ')
  const atFactor = (factor) =>
    cells(
      `${title}, times ${factorName(factor)}`,
      found.map((line) => line.factors[factorName(factor)]),
    )
  const exactMatches = found.flatMap((line) => line.exactMatch ?? [])
  return [cells(title, perplexities(name), { ...found[0], scale, exactMatches }), ...factors.map(atFactor)]
})
const head = 'model,trained on,factor,GSM8K,code,WikiText-2,right answers,gap closed,worse outside,seeds'.split(',')
const table = [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')
const { gpu, cpu, testRows } = lines.at(-1)
const commits = new Set(Object.keys(recipes).flatMap((name) => linesOf(name).map(({ commit }) => commit)))
const caption = `Measured on ${gpu ?? cpu} at ${commits.size > 1 ? 'commits' : 'commit'} ${Array.from(commits).join(', ')}${
  testRows ? `, of each test ${testRows} rows` : ''
}.`
const marks = /<!-- quality -->\n[\s\S]*?<!-- end -->/
const marked = `<!-- quality -->\n${caption}\n\n${table}\n<!-- end -->`
writeFileAtomic(page, readFileSync(page, 'utf8').replace(marks, marked))
