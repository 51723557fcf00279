// The demo's report: one HTML file without references to anything outside of it.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { formatCount, formatPercent, formatSize, titles } from './format.mjs'

const require = createRequire(import.meta.url)
const { version, author, license } = require('uplot/package.json')
/** Without the address in its banner, so that nothing in the report looks like a request. */
const uplot = (name) =>
  readFileSync(require.resolve(`uplot/dist/${name}`), 'utf8').replace(
    /^\/\*!.*?\*\//,
    `/*! uPlot ${version}, ${author}, ${license} */`,
  )

/** What is drawn: a title, and lines of [x, y] points. */
function charts({ loram, full }) {
  const steps = (events, stage) =>
    events.filter((e) => e.type === 'step' && e.stage === stage).map(({ step, loss }) => [step, loss])
  const evaluations = (events) => events.filter((e) => e.type === 'evaluation').map(({ step, loss }) => [step, loss])
  return [
    { title: 'Loss of alignment', lines: [{ label: 'loss', points: steps(loram, 'align') }] },
    {
      title: 'Loss of LoRA training',
      lines: [
        { label: 'pruned', points: steps(loram, 'train') },
        { label: 'large', points: steps(full, 'train') },
      ],
    },
    {
      title: 'Validation loss of LoRA training',
      lines: [
        { label: 'pruned', points: evaluations(loram) },
        { label: 'large', points: evaluations(full) },
      ],
    },
  ]
}

/** Lines on one x axis, as uPlot takes them: null where a line has no point. */
function aligned(lines) {
  const x = [...new Set(lines.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b)
  const columns = lines.map(({ points }) => {
    const byStep = new Map(points)
    return x.map((step) => byStep.get(step) ?? null)
  })
  return [x, ...columns]
}

function tableRow(name, { perplexity, exactMatch, parameters, bytes }) {
  const bar = `<td class="bar"><span style="width:${100 * exactMatch}%"></span></td>`
  return `<tr class="${name}"><th>${titles[name]}</th><td>${perplexity.toFixed(2)}</td><td>${formatPercent(exactMatch)}</td>${bar}<td>${formatCount(parameters)}</td><td>${formatSize(bytes)}</td></tr>`
}

/** @returns the report of `runDemo`'s result, as HTML */
export function renderReport({ rows, curves, seconds }) {
  const drawn = charts(curves).map(({ title, lines }) => ({
    title,
    labels: lines.map(({ label }) => label),
    data: aligned(lines),
  }))
  const { base, recovered, trainedSmall } = rows
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>loram demo</title>
<style>${uplot('uPlot.min.css')}
${style}</style>
<main>
<h1>LoRAM: train small, infer large</h1>
<p>An adapter trained on the pruned, aligned model in 4 bits (${formatCount(trainedSmall.parameters)} parameters) and recovered to the
large one (${formatCount(recovered.parameters)}) takes it from ${formatPercent(base.exactMatch)} to <strong>${formatPercent(recovered.exactMatch)}</strong> of
held-out questions answered exactly. The whole run took ${seconds.toFixed(0)} s.</p>
<div id="models"><table>
<thead><tr><th>Model</th><th>Perplexity</th><th colspan="2">Exact match</th><th>Parameters</th><th>Weights</th></tr></thead>
<tbody>
${Object.entries(rows)
  .map(([name, row]) => tableRow(name, row))
  .join('\n')}
</tbody>
</table></div>
<div id="charts"></div>
</main>
<script>${uplot('uPlot.iife.min.js')}</script>
<script>
const charts = ${JSON.stringify(drawn)}
${script}
</script>
</html>
`
}

const style = `
:root { color-scheme: light dark; --text: #1c2430; --muted: #5d6b7d; --line: #dde3ea; --card: #fff; --page: #f5f7fa; --first: #2563eb; --second: #d97706 }
@media (prefers-color-scheme: dark) { :root { --text: #e6ebf2; --muted: #9aa7b8; --line: #2c3644; --card: #171d26; --page: #0f141b; --first: #6ea0ff; --second: #f0a545 } }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 68rem; margin: 2.5rem auto; padding: 0 1.25rem }
h1 { margin: 0 0 .5rem; font-size: 1.75rem; letter-spacing: -.01em }
p { max-width: 46rem; margin: 0 0 1.5rem; color: var(--muted) }
strong { color: var(--text) }
#models, figure { background: var(--card); border: 1px solid var(--line); border-radius: .5rem }
#models { overflow-x: auto }
#models table { width: 100%; border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums }
#models table :is(th, td) { padding: .5rem 1rem; border-top: 1px solid var(--line); text-align: right; white-space: nowrap }
#models table thead th { border-top: 0; color: var(--muted); font-weight: 500 }
#models table th:is(:first-child, [colspan]) { text-align: left; font-weight: 500 }
th[colspan] { padding-left: 2rem }
.recovered > * { background: color-mix(in srgb, var(--first) 10%, transparent); font-weight: 700 }
.bar { width: 28% }
.bar span { display: block; height: .6rem; border-radius: .3rem; background: var(--first) }
#charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.25rem; margin-top: 1.25rem }
figure { margin: 0; padding: 1rem }
figcaption { font-weight: 500; margin-bottom: .5rem }
.u-legend { color: var(--muted); font-size: .8rem }
`

const script = `
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name)
const axis = { stroke: css('--muted'), grid: { stroke: css('--line'), width: 1 }, ticks: { stroke: css('--line'), width: 1 } }
for (const { title, labels, data } of charts) {
  const figure = document.createElement('figure')
  const caption = document.createElement('figcaption')
  caption.textContent = title
  figure.append(caption)
  document.getElementById('charts').append(figure)
  const colours = [css('--first'), css('--second')]
  const series = labels.map((label, i) => ({ label, stroke: colours[i], width: 2, spanGaps: true, points: { show: data[0].length < 30 } }))
  const width = figure.clientWidth - 32
  const plot = new uPlot({ width, height: 220, scales: { x: { time: false } }, axes: [axis, axis], series: [{ label: 'step' }, ...series] }, data, figure)
  addEventListener('resize', () => plot.setSize({ width: figure.clientWidth - 32, height: 220 }))
}
`
