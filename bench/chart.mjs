#!/usr/bin/env node
// Draws the newest results of the suite `scaling`: tokens per second and memory along each axis.
//   npm run bench:chart -- [RESULTS] [SVG]     default bench/results/scaling.jsonl, docs/scaling.svg
import { existsSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { scaleLinear, scaleLog } from 'd3-scale'
import { line } from 'd3-shape'
import { readResults } from './lib/results.mjs'
import { axesFor } from './suites/scaling.mjs'

const here = (name) => fileURLToPath(new URL(name, import.meta.url))
const [file = here('results/scaling.jsonl'), output = here('../docs/scaling.svg')] = process.argv.slice(2)
const lines = existsSync(file) ? readResults(file) : []
if (lines.length === 0) {
  console.error(`${file} has no results: npm run bench -- scaling`)
  process.exit(1)
}

/** What the steps of a column have in common, and what its horizontal axis counts. */
const titles = {
  sequenceLength: ({ microBatchSize, rank }) => [`${microBatchSize} sequence, rank ${rank}`, 'tokens in the sequence'],
  microBatchSize: ({ sequenceLength, rank }) => [`n x ${sequenceLength} tokens, rank ${rank}`, 'sequences (n)'],
  rank: ({ microBatchSize, sequenceLength }) => [`${microBatchSize} x ${sequenceLength} tokens`, 'rank'],
}
const modelNames = { 'llama-8b': 'Llama 3.1 8B shape', tiny: 'tiny shape' }
const { gpu, cpu } = lines.at(-1)
const byCase = new Map(lines.filter((line) => line.gpu === gpu && line.cpu === cpu).map((line) => [line.case, line]))

const [width, height] = [340, 200]
const margin = { top: 24, right: 24, bottom: 40, left: 72 }
/** The title of all charts, and below it those of the columns. */
const heading = 48

const axes = axesFor({ kind: gpu ? 'cuda' : 'cpu' })
const { model } = axes[0].cases[0]

/** Tokens per second above memory, both from zero, so that heights compare. */
const charts = axes.flatMap(({ along, cases }, column) => {
  const measured = cases.flatMap((options) => byCase.get(options.case) ?? [])
  const x = scaleLog([cases[0][along], cases.at(-1)[along]], [margin.left, width - margin.right]).base(2)
  const ticks = cases.map((options) => options[along])
  const [fixed, counted] = titles[along](cases[0])
  const place = (row, title, measure) => {
    const points = measured.map((result) => [result[along], measure(result)])
    const xTitle = row === 1 ? counted : ''
    return `<g transform="translate(${column * width}, ${heading + row * height})">${chart(x, ticks, points, title, xTitle)}</g>`
  }
  return [
    `<text x="${column * width + margin.left}" y="40" font-weight="bold">${fixed}</text>`,
    place(0, 'tokens per second', ({ tokensPerSecond }) => tokensPerSecond),
    place(1, 'GB at the peak', ({ peakBytes }) => peakBytes / 1e9),
  ]
})

function chart(x, ticks, points, title, xTitle) {
  const most = Math.max(0, ...points.map(([, value]) => value))
  const y = scaleLinear([0, most || 1], [height - margin.bottom, margin.top]).nice(4)
  const path = line(
    ([along]) => x(along),
    ([, value]) => y(value),
  )
  const bottom = height - margin.bottom
  return [
    `<text x="${margin.left}" y="14">${title}</text>`,
    ...y
      .ticks(4)
      .flatMap((tick) => [
        `<line x1="${margin.left}" x2="${width - margin.right}" y1="${y(tick)}" y2="${y(tick)}" stroke="#ddd"/>`,
        `<text x="${margin.left - 8}" y="${y(tick)}" dy=".32em" text-anchor="end">${y.tickFormat(4)(tick)}</text>`,
      ]),
    ...ticks.map((tick) => `<text x="${x(tick)}" y="${bottom + 16}" text-anchor="middle">${tick}</text>`),
    `<text x="${(margin.left + width - margin.right) / 2}" y="${bottom + 34}" text-anchor="middle">${xTitle}</text>`,
    `<path d="${path(points) ?? ''}" fill="none" stroke="#2563eb" stroke-width="2"/>`,
    ...points.map(([along, value]) => `<circle cx="${x(along)}" cy="${y(value)}" r="3" fill="#2563eb"/>`),
  ].join('')
}

const subject = `QLoRA steps, ${modelNames[model]}, NF4, ${gpu ? `one ${gpu.replace(/^NVIDIA | HBM\d\w*$/g, '')}` : cpu}`
writeFileSync(
  output,
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${axes.length * width} ${heading + 2 * height}" font-family="sans-serif" font-size="11">
<title>${subject}: tokens per second and peak memory</title>
<rect width="100%" height="100%" fill="white"/><text x="${margin.left}" y="16" font-size="13">${subject}</text>
${charts.join('\n')}
</svg>
`,
)
console.log(output)
