import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import type { RunEvent } from '../../src/train/events.ts'
import { openSinks } from '../../src/train/sinks.ts'
import { scratchFolder } from '../formats/scratch.ts'

const folder = scratchFolder()
const at = (name: string) => path.join(folder, name)
afterEach(() => {
  vi.useRealTimers()
})

const step = (stage: 'align' | 'train', number: number): RunEvent => ({
  ...{ type: 'step', stage, step: number, totalSteps: 9, loss: number / 4, gradNorm: 2 },
  ...{ learningRate: 1e-4, tokensPerSecond: 1000 },
})
const log = (chosen: object) => ({ samples: 0, tensorboard: false, prometheus: undefined, ...chosen })

test('nothing is written that was not asked for', () => {
  expect(openSinks({ log: log({}), output: 'out' }, folder)).toEqual([])
})

describe('Prometheus', () => {
  test('the file has the last values, of every stage, in the text format', () => {
    vi.useFakeTimers({ now: 1_700_000_000_000 })
    const file = at('loram.prom')
    const [sink] = openSinks({ log: log({ prometheus: file }), output: 'a "b"\\c' }, folder)
    sink!.write(step('align', 1))
    expect(readFileSync(file, 'utf8')).toContain('loram_running{run="a \\"b\\"\\\\c"} 1\n')
    sink!.write(step('train', 2))
    sink!.write({ type: 'evaluation', stage: 'train', step: 2, loss: 1, perplexity: Math.E, tokens: 9, targets: 5 })
    // at most one write a second
    expect(readFileSync(file, 'utf8')).not.toContain('stage="train"')
    vi.setSystemTime(1_700_000_001_000)
    sink!.write(step('train', 3))
    const lines = readFileSync(file, 'utf8').split('\n')
    const labels = (stage: string) => `{run="a \\"b\\"\\\\c",stage="${stage}"}`
    for (const line of [
      '# HELP loram_loss Mean loss of the last step, in nats a token',
      '# TYPE loram_loss gauge',
      `loram_loss${labels('align')} 0.25`,
      `loram_loss${labels('train')} 0.75`,
      `loram_step${labels('train')} 3`,
      `loram_evaluation_loss${labels('train')} 1`,
    ])
      expect(lines).toContain(line)
    // every line of a metric together, and no file beside this one
    expect(lines.filter((line) => line.startsWith('# TYPE')).length).toBe(
      new Set(lines.filter((line) => line.startsWith('# TYPE'))).size,
    )
    sink!.close()
    expect(readFileSync(file, 'utf8')).toMatch(/^loram_running\{.*\} 0$/m)
    expect(readdirSync(folder)).toEqual(['loram.prom'])
  })

  test('a file that cannot be written is named', () => {
    const file = at('none/loram.prom')
    const [sink] = openSinks({ log: log({ prometheus: file }), output: 'out' }, folder)
    expect(() => sink!.write(step('train', 1))).toThrow(expect.objectContaining({ code: 'E_DISK' }))
  })
})

test('TensorBoard gets a folder for each stage that has steps', () => {
  const dir = at('tensorboard')
  const [sink] = openSinks({ log: log({ tensorboard: true }), output: 'out' }, dir)
  sink!.write({ type: 'stage', stage: 'prune', status: 'started' })
  expect(existsSync(dir)).toBe(false)
  sink!.write(step('align', 1))
  sink!.write(step('train', 1))
  sink!.write(step('train', 2))
  sink!.close()
  expect(readdirSync(dir)).toEqual(['align', 'train'])
  const [file] = readdirSync(path.join(dir, 'train'))
  const bytes = readFileSync(path.join(dir, 'train', file!), 'latin1')
  for (const tag of ['loss', 'gradient_norm', 'learning_rate', 'tokens_per_second']) expect(bytes).toContain(tag)
})
