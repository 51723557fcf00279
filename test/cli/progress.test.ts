import { PassThrough } from 'node:stream'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { duration, ProgressDisplay } from '../../src/cli/progress.ts'
import type { RunEvent } from '../../src/train/events.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance', 'Date', 'setTimeout', 'clearTimeout'] })
  vi.stubEnv('CI', '')
})
afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllEnvs()
})

const totalSteps = 400
const step = (step: number): RunEvent => ({
  type: 'step',
  stage: 'train',
  step,
  totalSteps,
  loss: 12.345678,
  gradNorm: 1,
  learningRate: 1e-4,
  tokensPerSecond: 123456.7,
})
const evaluation: RunEvent = {
  type: 'evaluation',
  stage: 'train',
  step: 40,
  loss: 1,
  perplexity: Math.E,
  tokens: 1,
  targets: 1,
}

/** What a run of a step a second leaves on a stream. */
function show(terminal: { isTTY: boolean; columns?: number }): string {
  const stream = Object.assign(new PassThrough(), terminal) as unknown as NodeJS.WriteStream
  const display = new ProgressDisplay(stream)
  display.event({ type: 'notice', message: 'two words '.repeat(30).trim() })
  display.event({ type: 'stage', stage: 'train', status: 'started' })
  for (let i = 1; i <= totalSteps; i++) {
    vi.advanceTimersByTime(1000)
    display.event(step(i))
    if (i === 40) display.event(evaluation)
  }
  display.event({ type: 'stage', stage: 'train', status: 'finished' })
  display.done()
  return String(stream.read())
}

test('in a pipe: a line at most every five seconds, the first and the last step among them', () => {
  const lines = show({ isTTY: false }).trimEnd().split('\n')
  const steps = lines.filter((line) => /^train \d/.test(line))
  expect(steps).toHaveLength(81)
  expect(steps[0]).toBe('train 1/400  loss 12.3457  123000 tokens/s  ETA 6 min 39 s')
  expect(steps.at(-1)).toBe('train 400/400  loss 12.3457  123000 tokens/s  ETA 0 s')
  expect(lines).toContain('train: perplexity 2.7183 after step 40')
  expect(lines.at(-1)).toBe('train: finished in 6 min 40 s')
})

test.each([80, 100, 200])('lines fit 100 columns, and a terminal of %s', (columns) => {
  const plain = show({ isTTY: false }).split('\n')
  const bar = show({ isTTY: true, columns })
  // Whatever moves the cursor to a line's begin starts to write it anew
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what terminals are told with
  const frames = bar.split(/\n|\x1b\[1G/).map((text) => text.replace(/\x1b(\[\d*[A-Z]|[78])/g, ''))
  expect(frames.filter((frame) => frame.startsWith('train =')).length).toBeGreaterThan(100)
  expect(Math.max(...[...plain].map(({ length }) => length))).toBeLessThanOrEqual(100)
  const bars = frames.filter((frame) => frame.startsWith('train ')).map(({ length }) => length)
  expect(Math.max(...bars)).toBeLessThanOrEqual(Math.min(columns, 100))
})

test('on a terminal in CI: plain lines', () => {
  vi.stubEnv('CI', 'true')
  expect(show({ isTTY: true, columns: 100 })).not.toContain('\x1b')
})

test('durations', () => {
  expect([0.4, 59.6, 200, 18720].map(duration)).toEqual(['0 s', '1 min 0 s', '3 min 20 s', '5 h 12 min'])
})
