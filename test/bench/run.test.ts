import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { readResults } from '../../bench/lib/results.mjs'
import { scratchFolder } from '../formats/scratch.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const scratch = scratchFolder()

const at = (name: string) => path.join(scratch, name)
const run = (script: string, ...args: string[]) =>
  spawnSync(process.execPath, [path.join(root, 'bench', script), ...args], { cwd: scratch, encoding: 'utf8' })
const bench = (suite: string, ...args: string[]) =>
  run('run.mjs', suite, ...args, '--device', 'cpu', '--output', at(`${suite}.jsonl`))

describe('bench steps', () => {
  const name = 'qloram-tiny-2x64-r4'
  let line: Record<string, number>

  test('writes a line of what steps take', () => {
    const { status, stdout, stderr } = bench('steps', name)
    expect(status, stderr).toBe(0)
    expect(stderr).toContain('no peer is measured')
    line = JSON.parse(stdout)
    expect(readResults(at('steps.jsonl'))).toEqual([line])
    expect(line).toMatchObject({ case: name, dropout: 0, recompute: expect.anything(), commit: expect.any(String) })
    expect(line.tokensPerSecond).toBeCloseTo((1000 * 128) / line.milliseconds!, -1)
    expect(line.peakBytes! / line.plannedBytes!).toBeCloseTo(1, 2)
    expect(line.lastLoss).toBeLessThan(line.firstLoss!)
  })

  test.each([
    ['nothing got worse', 0, (before: typeof line) => ({ ...before, milliseconds: 100 * before.milliseconds! })],
    ['it got slower', 1, (before: typeof line) => ({ ...before, milliseconds: before.milliseconds! / 100, spread: 0 })],
    [
      'it takes more memory',
      1,
      (before: typeof line) => ({ ...before, milliseconds: 1e6, peakBytes: 0.99 * before.peakBytes! }),
    ],
    ['there is nothing to compare with', 1, (before: typeof line) => ({ ...before, cpu: 'another' })],
  ])('--compare: %s', (_what, expected, change) => {
    writeFileSync(at('baseline.jsonl'), `${JSON.stringify(change(line))}\n`)
    const { status, stdout, stderr } = bench('steps', name, '--compare', at('baseline.jsonl'))
    expect(status, stdout + stderr).toBe(expected)
  })

  test('says what peer cannot be measured, and measures the rest', () => {
    const { status, stdout, stderr } = bench('steps', name, '--peer', at('no-python'))
    expect(status).toBe(0)
    expect(stderr).toContain(`no peer for ${name}`)
    expect(JSON.parse(stdout)).not.toHaveProperty('peer')
  })

  test('measures the trainers that are named, and refuses them where there is nothing to choose', () => {
    const { stderr } = bench('steps', name, '--trainers', 'liger', '--peer', at('no-python'))
    expect(stderr.match(/no peer for .*: (steps|unsloth)_peer.py[^:]*/g)).toEqual([
      `no peer for ${name}: steps_peer.py --liger`,
    ])
    expect(bench('steps', name, '--trainers', 'liger').stderr).toContain('--trainers goes with')
  })

  test('refuses a case that there is not', () => {
    const { status, stderr } = bench('steps', 'qlora-9b')
    expect(status).toBe(1)
    expect(stderr).toContain('no case qlora-9b')
  })
})

test('bench memory: every policy takes what was planned', () => {
  const { status, stderr } = bench('memory')
  expect(status, stderr).toBe(0)
  const lines = readResults(at('memory.jsonl'))
  expect(lines.length).toBeGreaterThan(1)
  for (const { peakBytes, plannedBytes } of lines) expect(Math.abs(peakBytes / plannedBytes - 1)).toBeLessThan(0.01)
})

test('bench large: a recovered adapter leaves alone what was pruned, and merges', () => {
  const { status, stderr } = bench('large')
  expect(status, stderr).toBe(0)
  const [{ loss, lossMerged, lossWithout, perplexity, tokensPerSecond }] = readResults(at('large.jsonl'))
  expect(perplexity).toBeCloseTo(Math.exp(loss), 6)
  expect(Math.abs(lossMerged - loss)).toBeLessThan(Math.abs(lossWithout - loss) / 100)
  expect(tokensPerSecond).toBeGreaterThan(0)
})

test('bench kernels', () => {
  const { status, stderr } = bench('kernels', 'gemm-f32 1x192x576 nt', 'dequantize-nf4')
  expect(status, stderr).toBe(0)
  expect(readResults(at('kernels.jsonl'))).toMatchObject([
    { case: 'gemm-f32', m: 1, n: 192, k: 576, orientation: 'nt', milliseconds: expect.any(Number), samples: 7 },
    { case: 'dequantize-nf4', m: 1536, n: 576 },
  ])
})

describe('bench scaling', () => {
  test('is drawn from its results', () => {
    const { status, stderr } = bench('scaling', 'scaling-tiny-1x32-r8', 'scaling-tiny-1x64-r8', 'scaling-tiny-2x32-r8')
    expect(status, stderr).toBe(0)
    expect(run('chart.mjs', at('scaling.jsonl'), at('scaling.svg')).status).toBe(0)
    const svg = readFileSync(at('scaling.svg'), 'utf8')
    const texts = ['QLoRA steps, tiny shape, NF4', '1 sequence, rank 8', 'tokens per second', 'GB at the peak']
    for (const text of texts) expect(svg).toContain(text)
  })

  test('is not drawn without any', () => {
    const { status, stderr } = run('chart.mjs', at('none.jsonl'), at('none.svg'))
    expect(status).toBe(1)
    expect(stderr).toContain('has no results')
  })
})
