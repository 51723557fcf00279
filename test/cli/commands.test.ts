import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { kernelsFor } from '../../src/cli/commands/doctor.ts'
import { commands } from '../../src/cli/commands/index.ts'
import { readAdapter } from '../../src/formats/peft.ts'
import { cudaStatus } from '../../src/tensor/device.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { lastLine, loram, loramJson, writeRecords, writeTinyModel } from './support.ts'

const dir = scratchFolder()
const at = (name: string) => path.join(dir, name)
const [model, records, held, corpus] = [at('model'), at('train.jsonl'), at('eval.jsonl'), at('corpus.txt')]
const pruning = ['--layers', '1,3', '--ratio', '0.5']
const training = ['--prune.layers', '1,3', '--prune.ratio', '0.5', '--train.batch-size', '8', '--train.eval-steps', '4']
const train = [...training, '--model', model, '--data.train', records, '--data.eval', held]
const evaluate = ['evaluate', '--model', model, '--data', held, '--format', 'prompt-completion', '--device', 'cpu']

beforeAll(() => {
  writeTinyModel(model)
  writeRecords(records, 64)
  writeRecords(held, 16)
  writeFileSync(corpus, 'Some text that runs on and on. '.repeat(40))
})

test('help names every command and exit code, in lines of 100 columns', async () => {
  const { exitCode, stdout } = await loram('--help')
  expect(exitCode).toBe(0)
  for (const { name } of commands) expect(stdout).toContain(`\n  ${name.split(' ')[0]} `)
  expect(stdout).toMatch(/130 {2}interrupted/)
  expect(Math.max(...stdout.split('\n').map((line) => line.length))).toBeLessThanOrEqual(100)
})

test('--version is that of the package', async () => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8'))
  expect((await loram('--version')).stdout).toBe(`${version}\n`)
})

describe('train', () => {
  const output = at('trained')
  let run: Awaited<ReturnType<typeof loram>>
  beforeAll(async () => {
    run = await loram('train', ...train, '--train.learning-rate', '1e-2', '--output', output, '--json')
  })

  test('gives its events, then its result, as lines of JSON', () => {
    expect(run.exitCode).toBe(0)
    const lines = run.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
    const steps = lines.filter(({ type }) => type === 'step')
    expect(steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
    expect(steps.at(-1).loss).toBeLessThan(steps[0].loss)
    expect(lines.slice(0, -1).filter(({ type }) => typeof type !== 'string')).toEqual([])
    expect(lines.at(-1)).toMatchObject({ adapter: output, metrics: { steps: 8, evaluation: { step: 8 } } })
  })

  test('shows progress on stderr', () => {
    expect(run.stderr).toContain('train 8/8  loss ')
    expect(run.stderr).toMatch(/train: finished in \d+ s/)
  })

  test('makes an adapter that evaluate and generate use and that merge gives the same', async () => {
    const before = await loramJson(...evaluate)
    const after = await loramJson(...evaluate, '--adapter', output)
    expect(after.perplexity).toBeLessThan(before.perplexity as number)
    expect(await loramJson('merge', '--model', model, '--adapter', output, '--output', at('merged'))).toEqual({
      output: at('merged'),
    })
    const merged = await loramJson(...evaluate, '--model', at('merged'))
    expect(merged.loss).toBeCloseTo(after.loss as number, 4)
  })

  test('recover makes the same adapter of the one that was trained', async () => {
    const [adapter, from] = [path.join(output, 'run/prunedAdapter'), path.join(output, 'run/pruned')]
    await loramJson('recover', '--adapter', adapter, '--pruning', from, '--output', at('recovered'))
    expect(readAdapter(at('recovered'))).toEqual(readAdapter(output))
  })
})

test('prune, then align', async () => {
  const prune = ['prune', '--model', model, ...pruning, '--criterion', 'magnitude', '--output', at('pruned')]
  expect(await loramJson(...prune)).toEqual({ output: at('pruned') })
  expect(existsSync(at('pruned/pruning.json'))).toBe(true)
  const align = ['align', '--model', at('pruned'), '--data', corpus, '--steps', '2', '--batch-size', '4']
  const { exitCode, stdout, stderr } = await loram(...align, '--output', at('aligned'))
  expect([exitCode, stdout]).toEqual([0, `wrote ${at('aligned')}\n`])
  expect(stderr).toContain('align 2/2  loss ')
})

describe('evaluate', () => {
  test('answers of records', async () => {
    const result = await loramJson(...evaluate, '--sequence-length', '64', '--limit', '4')
    const loading = { seconds: expect.any(Number), bytes: expect.any(Number) }
    expect(result).toMatchObject({ perplexity: Math.exp(result.loss as number), tokens: 68, targets: 36, loading })
  })

  test('every token of running text, which text files are', async () => {
    const ofText = ['evaluate', '--model', model, '--data', corpus]
    const result = await loramJson(...ofText, '--format', 'text')
    expect(result.targets).toBeGreaterThan(1200)
    expect(await loramJson(...ofText)).toMatchObject({ loss: result.loss, targets: result.targets, truncated: 0 })
  })

  test('says what of records is too long', async () => {
    const file = at('long.jsonl')
    const [short, long] = ['short', 'long '.repeat(20)]
    const exchanges = [short, long].flatMap((prompt) => [short, long].map((completion) => ({ prompt, completion })))
    writeFileSync(file, exchanges.map((record) => JSON.stringify(record)).join('\n'))
    const args = ['evaluate', '--model', model, '--data', file, '--sequence-length', '64']
    expect(await loramJson(...args)).toMatchObject({ truncated: 1, masked: 2 })
    const { stdout } = await loram(...args)
    expect(stdout).toMatch(/^truncated +1 examples, to the sequence length\nleft out +2 records, /m)
  })

  test('for people', async () => {
    expect((await loram(...evaluate)).stdout).toMatch(/^perplexity {2}\d+\.\d{4}\nloss /)
  })
})

describe('generate', () => {
  const generate = ['generate', '--model', model, '--prompt', '2 and 3', '--max-new-tokens', '12']

  test('gives text and token ids, and streams the same text', async () => {
    const result = await loramJson(...generate, '--temperature', '0')
    const { tokenIds, text } = result as { tokenIds: number[]; text: string }
    expect(result).toMatchObject({ promptTokens: 8, tokensPerSecond: expect.any(Number) })
    expect(tokenIds.length).toBeLessThanOrEqual(12)
    expect(text).toHaveLength(tokenIds.length) // the tokenizer has one for every character
    expect((await loram(...generate)).stdout).toBe(`${text}\n`)
  })
})

describe('plan', () => {
  const plan = ['plan', '--model', model, '--device', 'cpu', '--prune.ratio', '0.5', '--prune.layers', '1,3']

  test('gives parameters and bytes by part', async () => {
    expect(await loramJson(...plan)).toMatchObject({
      original: { parameters: 205376, bytes: { tables: 81920, norms: 2304 } },
      training: { parameters: { original: 205376, trained: 159296, adapter: 31616 }, recompute: { none: 4 } },
    })
  })

  test('for people too', async () => {
    const { stdout } = await loram(...plan)
    expect(stdout).toContain('original model        205,376 parameters, 802 KiB\n')
  })
})

test('init writes a file that trains as the flags do, and overwrites nothing', async () => {
  const file = at('loram.yaml')
  const flags = [...train, '--lora.rank', '2', '--output', at('fromFile')]
  expect(await loramJson('init', file, ...flags)).toEqual({ file })
  await loramJson('train', file, '--train.max-steps', '2')
  const options = (folder: string) => JSON.parse(readFileSync(path.join(folder, 'run/options.json'), 'utf8'))
  await loramJson('train', ...flags, '--train.max-steps', '2', '--output', at('fromFlags'))
  expect(options(at('fromFile'))).toEqual({ ...options(at('fromFlags')), output: at('fromFile') })

  const text = readFileSync(file, 'utf8')
  const again = await loram('init', file, ...flags, '--json')
  expect(again.exitCode).toBe(2)
  expect(lastLine(again.stdout)).toMatchObject({ error: { code: 'E_CONFIG', file } })
  expect(readFileSync(file, 'utf8')).toBe(text)
})

test.each([
  ['9.0', /wgmma/],
  ['8.0', /^mma\.sync$/],
  ['12.0', /^mma\.sync$/],
])('doctor knows which kernels a GPU of compute capability %s runs', (computeCapability, kernels) => {
  const { products, attention } = kernelsFor({ computeCapability }).kernels
  expect(products).toMatch(kernels)
  expect(attention).toMatch(kernels)
})

test('doctor says what it found and tried', async () => {
  const device = cudaStatus() === '' ? 'cuda' : 'cpu'
  expect(await loramJson('doctor')).toMatchObject({
    node: process.version,
    device,
    addon: { usable: true, attempts: [{ file: expect.stringContaining('loram.node') }] },
    cuda: { usable: device === 'cuda', attempts: expect.any(Array) },
  })
  expect((await loram('doctor')).stdout).toMatch(new RegExp(`^CUDA .*loram_cuda.so: .*^device +${device}$`, 'ms'))
})
