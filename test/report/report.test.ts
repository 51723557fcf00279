import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { report } from '../../src/api/report.ts'
import { readHistory } from '../../src/report/history.ts'
import { expectError, scratchFolder } from '../formats/scratch.ts'
import { countColours } from './png.ts'

const folder = scratchFolder()
let runs = 0

/** A folder of a run that reported `events`; `rest` is what stands behind the last line. */
function writeRun(events: readonly object[], rest = ''): string {
  const dir = path.join(folder, `run-${runs++}`)
  mkdirSync(path.join(dir, 'run'), { recursive: true })
  writeFileSync(path.join(dir, 'run/options.json'), JSON.stringify({ model: 'a <model>', output: dir }))
  writeFileSync(path.join(dir, 'run/events.jsonl'), events.map((event) => `${JSON.stringify(event)}\n`).join('') + rest)
  return dir
}

const step = (stage: string, number: number, loss = 1 / number) => ({
  ...{ time: '2026-01-01T00:00:00.000Z', type: 'step', stage, step: number, totalSteps: 900, loss },
  ...{ gradNorm: 1, learningRate: 1e-4, tokensPerSecond: 1000 + number },
})
const evaluation = (number: number, loss: number) => ({
  ...{ type: 'evaluation', stage: 'train', step: number, loss, perplexity: Math.exp(loss), tokens: 9, targets: 9 },
})
const plan = {
  type: 'plan',
  plan: {
    parameters: { original: 100, trained: 50, adapter: 1234 },
    bytes: { tables: 10, projections: 20, norms: 1, adapter: 30, activations: 39, scratch: 0, total: 100 },
    ...{ recompute: 'none', reduction: 2 },
  },
}
const sample = (number: number, answer: string) => ({
  ...{ type: 'sample', stage: 'train', step: number, prompt: '<b>2+2</b>', expected: '4', answer },
})
const events = [
  { type: 'notice', message: 'computing on "cpu" & more' },
  plan,
  ...[1, 2, 3].map((number) => step('align', number)),
  sample(0, 'before'),
  ...Array.from({ length: 900 }, (_, i) => step('train', i + 1)),
  ...[evaluation(300, 2), evaluation(600, 1), evaluation(900, 1.5)],
  sample(900, 'after'),
]

describe('history', () => {
  test('leaves out what a resumed run did again', () => {
    const again = [step('train', 1, 9), step('train', 2, 8), evaluation(2, 7), step('train', 3, 6)]
    const resumed = [step('train', 2, 5), evaluation(2, 4), step('train', 3, 3), step('train', 4, 2)]
    const { steps, evaluations } = readHistory(writeRun([step('align', 5), ...again, ...resumed]))
    expect(steps.map(({ stage, step, loss }) => [stage, step, loss])).toEqual([
      ['align', 5, 1 / 5],
      ['train', 1, 9],
      ['train', 2, 5],
      ['train', 3, 3],
      ['train', 4, 2],
    ])
    expect(evaluations.map(({ loss }) => loss)).toEqual([4])
  })

  test('passes over a last line that is being written, and names a damaged one', () => {
    expect(readHistory(writeRun([step('train', 1)], '{"type": "st')).steps).toHaveLength(1)
    const dir = writeRun([step('train', 1)], '{"type": "st\n')
    expectError(() => readHistory(dir), 'E_DATA', { file: path.join(dir, 'run/events.jsonl'), line: 2 })
  })

  test('a folder without a run is refused', () => {
    expectError(() => report({ runs: [folder] }), 'E_FILE')
  })
})

test('steps that finish on the original are apart from training', () => {
  const finish = [step('recover', 1, 0.25), step('recover', 2, 0.5), { ...evaluation(2, 0.1), stage: 'recover' }]
  const dir = writeRun([step('train', 1), evaluation(1, 1), step('train', 2), evaluation(2, 2), ...finish])
  const html = readFileSync(report({ runs: [dir] }).output, 'utf8')
  expect(html).toContain('2.7183 at step 1<')
  const marksOf = (title: string) => new RegExp(`${title}</figcaption>.*?</figure>`, 's').exec(html)![0]
  expect(marksOf('Loss on the evaluation data').match(/<circle/g)).toHaveLength(2)
  expect(marksOf('Loss of finishing on the original')).toMatch(/step 1: 0.25<.*step 2: 0.5</s)
  expect(marksOf('Loss of finishing on the evaluation data')).toContain('step 2: 0.1<')
})

describe('the page', () => {
  const dir = writeRun(events)
  const { output } = report({ runs: [dir] })
  const html = readFileSync(output, 'utf8')

  test('lies in the run, and has every part', () => {
    expect(output).toBe(path.join(dir, 'report.html'))
    for (const part of [
      ...['Loss of alignment', 'Loss of training', 'Loss on the evaluation data', 'Learning rate', 'Gradient norm'],
      ...['Tokens per second', 'Planned memory', 'activations', 'Before training', '>before<', '>after<'],
      ...['900 of 900', '2.7183 at step 600', '1,234', '100 B', 'computing on'],
    ])
      expect(html).toContain(part)
  })

  test('asks for nothing outside of it and runs nothing', () => {
    expect(html).not.toMatch(/<script|<link|<img|\bsrc\s*=|\bhref\s*=|@import|url\(|https?:/)
  })

  test('shows what a run holds as text', () => {
    expect(html).toContain('&lt;b&gt;2+2&lt;/b&gt;')
    expect(html).toContain('a &lt;model&gt;')
    expect(html).toContain('&quot;cpu&quot; &amp; more')
    expect(html).not.toContain('<b>')
  })

  test('draws long curves with few points, and no numbers that are none', () => {
    const paths = Array.from(html.matchAll(/<path d="([^"]*)"/g), ([, d]) => d!)
    expect(paths.length).toBeGreaterThanOrEqual(6)
    for (const d of paths) expect(d.split('L').length).toBeLessThanOrEqual(400)
    expect(html).not.toMatch(/NaN|Infinity|undefined/)
  })

  test('a run that has barely begun, or whose gradients were not finite', () => {
    const early = report({ runs: [writeRun([]), writeRun([{ ...step('train', 1), gradNorm: null }])] })
    expect(readFileSync(early.output, 'utf8')).not.toMatch(/NaN|Infinity|undefined|null/)
  })

  test('several runs share charts', () => {
    const other = writeRun([step('train', 1), step('train', 2)])
    const both = readFileSync(report({ runs: [dir, other], output: path.join(folder, 'both.html') }).output, 'utf8')
    expect(both).toContain('loram: 2 runs')
    const chart = /Loss of training<\/figcaption>.*?<\/figure>/s.exec(both)![0]
    expect(chart).toContain('var(--series-0)')
    expect(chart).toContain('var(--series-1)')
  })
})

const browser = ['chromium', 'chromium-browser', 'google-chrome'].find(
  (name) => spawnSync(name, ['--version']).status === 0,
)

describe.skipIf(!browser)('in a browser (needs chromium or google-chrome)', () => {
  const { output } = report({ runs: [writeRun(events)] })

  test.each([
    ['light', 1, [245, 247, 250], [37, 99, 235]],
    ['dark', 0, [15, 20, 27], [110, 160, 255]],
  ])('is legible where the system is %s', (scheme, preference, page, line) => {
    const file = path.join(folder, `${scheme}.png`)
    const { status, stderr } = spawnSync(browser!, [
      ...['--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--window-size=1000,1500'],
      ...[`--blink-settings=preferredColorScheme=${preference}`, `--screenshot=${file}`, pathToFileURL(output).href],
    ])
    expect(status, String(stderr)).toBe(0)
    const count = countColours(readFileSync(file))
    expect(count(page!)).toBeGreaterThan(50_000)
    expect(count(line!)).toBeGreaterThan(1000)
  })
})
