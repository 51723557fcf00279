#!/usr/bin/env node
// Draws the newest results of the suite `scaling`: tokens per second and memory along each axis.
//   npm run bench:chart -- [RESULTS] [SVG]     default bench/results/scaling.jsonl, docs/scaling.svg
import { existsSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parse, View } from 'vega'
import { compile } from 'vega-lite'
import { readResults } from './lib/results.mjs'
import { axesFor } from './suites/scaling.mjs'

const here = (name) => fileURLToPath(new URL(name, import.meta.url))
const [file = here('results/scaling.jsonl'), output = here('../docs/scaling.svg')] = process.argv.slice(2)
const lines = existsSync(file) ? readResults(file) : []
if (lines.length === 0) {
  console.error(`${file} has no results: npm run bench -- scaling`)
  process.exit(1)
}

const titles = {
  sequenceLength: () => 'tokens of one sequence',
  microBatchSize: ({ sequenceLength }) => `sequences of ${sequenceLength} tokens`,
  rank: () => 'rank',
}
const { gpu, cpu } = lines.at(-1)
const byCase = new Map(lines.filter((line) => line.gpu === gpu && line.cpu === cpu).map((line) => [line.case, line]))

/** Tokens per second above memory, both from zero, so that heights compare. */
function column({ along, cases }) {
  const measured = cases.flatMap((options) => byCase.get(options.case) ?? [])
  const values = measured.map((line) => ({ ...line, gigabytes: line.peakBytes / 1e9 }))
  const x = {
    ...{ field: along, type: 'quantitative', title: titles[along](cases[0]), scale: { type: 'log', base: 2 } },
    axis: { values: cases.map((options) => options[along]), format: 'd', grid: false },
  }
  const chart = (field, title) => ({
    ...{ width: 260, height: 140, mark: { type: 'line', point: true } },
    encoding: { x, y: { field, type: 'quantitative', title } },
  })
  return {
    data: { values },
    vconcat: [chart('tokensPerSecond', 'tokens per second'), chart('gigabytes', 'GB at the peak')],
  }
}

const charts = axesFor({ kind: gpu ? 'cuda' : 'cpu' }).map(column)
const { spec } = compile({ title: `QLoRA steps, ${gpu ?? cpu}`, background: 'white', hconcat: charts })
writeFileSync(output, `${await new View(parse(spec), { renderer: 'none' }).toSVG()}\n`)
console.log(output)
