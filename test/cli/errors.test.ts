import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { exitCodeOf } from '../../src/cli/exitCode.ts'
import * as errors from '../../src/errors.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { lastLine, loram, loramJson, main, start, writeRecords, writeTinyModel } from './support.ts'

const dir = scratchFolder()
const at = (name: string) => path.join(dir, name)
const [model, records] = [at('model'), at('train.jsonl')]
const evaluate = ['evaluate', '--model', model, '--data', records]
const train = ['train', '--model', model, '--data.train', records, '--train.batch-size', '8', '--train.max-steps', '1']

beforeAll(() => {
  writeTinyModel(model)
  writeRecords(records, 16)
})

test('every class of errors has its exit code', () => {
  const codes = Object.entries(errors)
    .filter(([name]) => /^[A-Z].*Error$/.test(name) && name !== 'LoramError')
    .map(([name, value]) => [name, exitCodeOf(Object.create((value as { prototype: object }).prototype))])
  expect(Object.fromEntries(codes)).toEqual({
    FileError: 3,
    ModelError: 3,
    AdapterError: 3,
    PlanError: 3,
    DataError: 3,
    ConfigError: 2,
    MemoryError: 4,
    DeviceError: 4,
    RunError: 5,
    OpError: 1,
    AbortError: 130,
  })
  expect(exitCodeOf(new errors.RunError('E_DISK', ''))).toBe(4)
  expect(exitCodeOf(new Error('a bug'))).toBe(1)
})

/** Runs a command that must fail; for people on stderr, for programs as the last line of stdout. */
async function expectFailure(args: readonly string[], exitCode: number, error: object): Promise<void> {
  const run = await loram(...args, '--json')
  expect(lastLine(run.stdout)).toMatchObject({ error })
  expect(run.exitCode).toBe(exitCode)
  const { message } = lastLine(run.stdout).error as { message: string }
  expect(run.stderr).toContain(`loram: ${message}\n`)
  expect(run.stderr).not.toMatch(/^ {4}at /m)
}

describe('usage', () => {
  test.each([
    ['a command', ['trian'], 'did you mean train?'],
    ['a flag', ['train', '--lora.rnak', '8'], 'did you mean --lora.rank?'],
    ['a value', [...evaluate, '--format', 'alpacca'], 'did you mean alpaca?'],
    ['an item of a list', [...train, '--lora.targets', 'q_proj,k_prj', '--output', 'x'], 'did you mean k_proj?'],
    ['a flag without its value', ['evaluate', '--model'], expect.any(String)],
    ['a missing option', ['evaluate', '--model', 'x'], 'give --data'],
    ['a missing option of a section', [...train, '--align.steps', '3', '--output', 'x'], 'give --align.data'],
    ['an argument too many', ['evaluate', 'x'], expect.any(String)],
    ['an argument beside its flag', ['report', 'x', '--runs', 'y'], 'give all of it one way'],
    ['no number', [...evaluate, '--limit', 'few'], undefined],
    ['a number out of range', [...train, '--prune.ratio', '1.5', '--output', 'x'], undefined],
    ['no amount of memory', ['plan', '--model', goldenPath('loram', 'large'), '--memory', 'much'], undefined],
  ])('%s', async (_, args, remedy) => {
    await expectFailure(args, 2, { name: 'ConfigError', code: 'E_CONFIG', ...(remedy !== undefined && { remedy }) })
  })

  test('no command: help, on stderr', async () => {
    const { exitCode, stdout, stderr } = await loram()
    expect([exitCode, stdout]).toEqual([2, ''])
    expect(stderr).toContain('Usage: loram')
  })
})

describe('input', () => {
  test.each([
    ['no model', [...evaluate, '--model', at('none')], { code: 'E_FILE', file: at('none') }],
    ['no data', [...evaluate, '--data', at('none.jsonl')], { code: 'E_DATA' }],
    ['no configuration file', ['train', at('none.yaml')], { code: 'E_FILE', file: at('none.yaml') }],
    ['no adapter', [...evaluate, '--adapter', at('none')], { name: expect.stringMatching('Error') }],
    [
      'an adapter for another model',
      [...evaluate, '--adapter', goldenPath('loram', 'adapter-pruned')],
      { name: 'AdapterError' },
    ],
    [
      'no pruning plan',
      ['recover', '--adapter', goldenPath('loram', 'adapter-pruned'), '--pruning', model, '--output', at('no')],
      { code: 'E_PLAN' },
    ],
  ])('%s', async (_, args, error) => {
    await expectFailure(args, 3, error)
  })

  test('a bad line of data, with its number', async () => {
    const file = at('bad.jsonl')
    writeFileSync(file, '{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    await expectFailure([...evaluate, '--data', file], 3, { code: 'E_DATA', file, line: 2 })
  })

  test('sequences for which the model has no positions', async () => {
    await expectFailure([...evaluate, '--sequence-length', '257'], 2, { field: 'sequenceLength', found: '257' })
  })

  test('a model of another family', async () => {
    const folder = writeTinyModel(at('other'))
    writeFileSync(path.join(folder, 'config.json'), JSON.stringify({ model_type: 'gpt2' }))
    await expectFailure([...evaluate, '--model', folder], 3, { code: 'E_MODEL' })
  })
})

describe('resources', () => {
  test('memory', async () => {
    await expectFailure(['plan', '--model', model, '--memory', '1 MiB'], 4, { code: 'E_MEMORY', field: 'memory' })
  })

  test('a GPU that is not there', async () => {
    await expectFailure([...evaluate, '--device', 'cuda'], 4, { code: 'E_CUDA_NOT_BUILT' })
  })

  test('a folder that cannot be made', async () => {
    await expectFailure([...train, '--output', path.join(records, 'x')], 4, { code: 'E_DISK' })
  })
})

describe('the run', () => {
  test('another process works in the folder', async () => {
    const output = at('locked')
    mkdirSync(path.join(output, 'run'), { recursive: true })
    writeFileSync(path.join(output, 'run/lock'), JSON.stringify({ pid: process.pid, host: os.hostname() }))
    await expectFailure([...train, '--output', output], 5, { code: 'E_LOCKED' })
  })

  test('a folder that holds a run, and resuming with other options', async () => {
    const output = at('done')
    await loramJson(...train, '--output', output)
    await expectFailure([...train, '--output', output], 2, { code: 'E_CONFIG', field: 'output' })
    const resume = [...train, '--output', output, '--resume', '--lora.rank', '4']
    await expectFailure(resume, 5, { code: 'E_RESUME', found: 'lora.rank 4' })
  })

  test('a loss that is not a number', async () => {
    const diverging = [...train, '--train.max-steps', '9', '--train.epochs', '9', '--train.max-grad-norm', '0']
    await expectFailure([...diverging, '--train.learning-rate', '1e30', '--output', at('nan')], 5, {
      code: 'E_NAN_LOSS',
    })
    expect(existsSync(at('nan/adapter_model.safetensors'))).toBe(false)
  })
})

test.each([
  ['LORAM_THREADS', 'abc'],
  ['LORAM_THREADS', '0'],
  ['LORAM_CPU', 'sse'],
])('%s=%s is refused', async (field, found) => {
  const { exitCode, stdout } = await start([...evaluate, '--json'], { env: { [field]: found } }).finished
  expect([exitCode, lastLine(stdout).error]).toEqual([2, expect.objectContaining({ code: 'E_CONFIG', field, found })])
})

test.skipIf(!existsSync('/dev/full'))(
  'what cannot be written to stdout is an error (skipped: without /dev/full)',
  async () => {
    const full = openSync('/dev/full', 'w')
    const command = [main, 'plan', '--model', model]
    const { status, stderr } = spawnSync(process.execPath, command, {
      stdio: ['ignore', full, 'pipe'],
      encoding: 'utf8',
    })
    closeSync(full)
    expect([status, stderr]).toEqual([4, expect.stringContaining('E_DISK')])
  },
)

test('LORAM_DEBUG shows the stack', async () => {
  const { stderr } = await start([...evaluate, '--limit', 'few'], { env: { LORAM_DEBUG: '1' } }).finished
  expect(stderr).toMatch(/^ {4}at /m)
})

test('a reader of stdout that goes away ends the command', async () => {
  const command = start([...train, '--output', at('pipe'), '--train.epochs', '90', '--train.max-steps', '90', '--json'])
  command.process.stdout!.destroy()
  const { exitCode, stderr } = await command.finished
  expect(exitCode).toBe(130)
  expect(stderr).not.toContain('EPIPE')
  expect(readdirSync(at('pipe'))).toEqual(['run'])
})
