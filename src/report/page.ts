import { stringify } from 'yaml'
import { formatBytes } from '../memory/bytes.ts'
import type { Stage } from '../train/events.ts'
import { lineChart, type Point, type Series, stackedBars } from './chart.ts'
import type { History } from './history.ts'
import { escapeHtml } from './html.ts'
import { style } from './style.ts'

/** A page about runs, drawn together: one file that asks for nothing outside of it, and has no script. */
export function reportPage(runs: readonly History[]): string {
  const title = runs.length === 1 ? `loram: ${runs[0]!.name}` : `loram: ${runs.length} runs`
  const many = runs.length > 1
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escapeHtml(title)}</title>
<style>${style}</style>
<main>
<h1>${escapeHtml(title)}</h1>
${summary(runs)}
${many ? legend(runs.map(({ name }) => name)) : ''}
<div class="charts">
${charts(runs).join('\n')}
</div>
${memory(runs)}
${runs.map((run) => samples(run, many)).join('\n')}
${runs.map((run) => details(run, many)).join('\n')}
</main>
</html>
`
}

const figure = (title: string, body: string) =>
  `<figure><figcaption>${escapeHtml(title)}</figcaption>\n${body}\n</figure>`

const legend = (names: readonly string[]) =>
  `<ul class="legend">${names.map((name, i) => `<li><span style="background:var(--series-${i % colours})"></span>${escapeHtml(name)}</li>`).join('')}</ul>`

/** As many as the page's style has. */
const colours = 6

function table(head: readonly string[], rows: readonly (readonly string[])[], kind: string): string {
  const row = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`
  return `<div class="card"><table class="${kind}"><thead>${row(head, 'th')}</thead><tbody>\n${rows.map((cells) => row(cells, 'td')).join('\n')}\n</tbody></table></div>`
}

const none = '–'

function summary(runs: readonly History[]): string {
  const rows = runs.map(({ name, steps, evaluations, plan }) => {
    const trained = steps.filter(({ stage }) => stage === 'train')
    const best = evaluations
      .filter(({ stage }) => stage === 'train')
      .reduce<History['evaluations'][number] | undefined>(
        (least, one) => (least && least.loss <= one.loss ? least : one),
        undefined,
      )
    const last = trained.at(-1)
    return [
      name,
      last ? `${last.step} of ${last.totalSteps}` : none,
      last?.loss.toFixed(4) ?? none,
      best ? `${best.perplexity.toFixed(4)} at step ${best.step}` : none,
      trained.length > 0
        ? Math.round(median(trained.map((step) => step.tokensPerSecond))).toLocaleString('en-US')
        : none,
      plan?.parameters.adapter.toLocaleString('en-US') ?? none,
      plan ? formatBytes(plan.bytes.total) : none,
    ]
  })
  const head = ['Run', 'Steps', 'Last loss', 'Best perplexity', 'Tokens/s', 'Adapter parameters', 'Planned memory']
  return table(head, rows, 'numbers')
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

type Step = History['steps'][number]

/** Every chart of which some run has points. */
function charts(runs: readonly History[]): string[] {
  const steps = (stage: Stage, value: (step: Step) => number) => (run: History) =>
    run.steps.filter((step) => step.stage === stage).map((step): Point => [step.step, value(step)])
  const evaluations = (stage: Stage) => (run: History) =>
    run.evaluations.filter((one) => one.stage === stage).map(({ step, loss }): Point => [step, loss])
  const drawn: [string, (run: History) => Point[]][] = [
    ['Loss of alignment', steps('align', ({ loss }) => loss)],
    ['Loss of training', steps('train', ({ loss }) => loss)],
    ['Loss on the evaluation data', evaluations('train')],
    ['Learning rate of training', steps('train', ({ learningRate }) => learningRate)],
    ['Gradient norm of training, before clipping', steps('train', ({ gradNorm }) => gradNorm)],
    ['Tokens per second of training', steps('train', ({ tokensPerSecond }) => tokensPerSecond)],
    ['Loss of finishing on the original', steps('recover', ({ loss }) => loss)],
    ['Loss of finishing on the evaluation data', evaluations('recover')],
  ]
  return drawn.flatMap(([title, pointsOf]) => {
    const series = runs.map((run, i): Series => {
      // JSON has null for what is not finite
      const points = pointsOf(run).filter(([, value]) => Number.isFinite(value))
      return { label: run.name, points, colour: i % colours }
    })
    return series.some(({ points }) => points.length > 0) ? [figure(title, lineChart(title, series))] : []
  })
}

function memory(runs: readonly History[]): string {
  const names = ['embedding and head', 'projections', 'norms', 'adapter', 'activations', 'scratch']
  const bars = runs.flatMap(({ name, plan }) => {
    if (!plan) return []
    const { tables, projections, norms, adapter, activations, scratch } = plan.bytes
    return [{ label: name, parts: [tables, projections, norms, adapter, activations, scratch] }]
  })
  if (bars.length === 0) return ''
  return figure(
    'Planned memory of training',
    `${stackedBars('Planned memory', names, bars, formatBytes)}\n${legend(names)}`,
  )
}

/** What the model says to each prompt at the first and at the last step that was sampled. */
function samples({ name, samples }: History, many: boolean): string {
  if (samples.length === 0) return ''
  const prompts = [...new Set(samples.map(({ prompt }) => prompt))]
  const rows = prompts.map((asked) => {
    const answers = samples.filter(({ prompt }) => prompt === asked)
    const [first, last] = [answers[0]!, answers.at(-1)!]
    return [first.prompt, first.expected, first.answer, last.step > first.step ? last.answer : none]
  })
  const head = ['Prompt', 'Expected', 'Before training', 'After training']
  return `<h2>${escapeHtml(many ? `Samples of ${name}` : 'Samples')}</h2>\n${table(head, rows, 'texts')}`
}

function details({ name, options, notices }: History, many: boolean): string {
  const title = many ? `Options and notices of ${name}` : 'Options and notices'
  return `<details class="card"><summary>${escapeHtml(title)}</summary>
<pre>${escapeHtml(stringify(options))}</pre>
<ul>${notices.map((notice) => `<li>${escapeHtml(notice)}</li>`).join('\n')}</ul>
</details>`
}
