import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { cpu } from '../../src/tensor/device.ts'
import { AdamW, adamWDefaults } from '../../src/train/adamW.ts'
import { loadParameters, restoreNewest, saveCheckpoint } from '../../src/train/checkpoint.ts'
import { ParameterSet } from '../../src/train/parameters.ts'
import { expectError, scratchFolder } from '../formats/scratch.ts'
import { generator } from '../ops/support.ts'

const root = scratchFolder()
let dir = ''
beforeEach(() => {
  dir = mkdtempSync(path.join(root, 'run-'))
})

const empty = () => {
  const parameters = new ParameterSet(cpu, new Map([['weight', [256, 256]]]))
  return { parameters, optimizer: new AdamW(parameters, adamWDefaults) }
}
const save = (folder: string, step: number) => {
  const { parameters, optimizer } = empty()
  parameters.values.write(new Float32Array(parameters.values.elements).fill(step))
  const progress = { step, batches: { epoch: 0, position: step }, evaluatedStep: 0, evaluationsSinceBest: 0 }
  return saveCheckpoint(folder, parameters, optimizer, progress, 2)
}
/** Restores what is newest; the values it holds must be those of the step it says. */
const restore = (folder: string) => {
  const { parameters, optimizer } = empty()
  const damaged: string[] = []
  const progress = restoreNewest(folder, parameters, optimizer, (name) => damaged.push(path.basename(name)))
  const values = new Set(parameters.get('weight').value.read() as Float32Array)
  if (progress) expect([...values]).toEqual([progress.step])
  return { step: progress?.step, damaged }
}

test('kill -9 at any moment leaves a complete checkpoint', { timeout: 120_000 }, async () => {
  const next = generator(7)
  const saver = fileURLToPath(new URL('saver.mjs', import.meta.url))
  for (let round = 0; round < 40; round++) {
    const child = spawn(process.execPath, [saver, dir], { stdio: ['ignore', 'pipe', 'inherit'] })
    await once(child.stdout, 'data')
    // The first checkpoint is there; up to forty milliseconds later some other is being written
    await new Promise((resolve) => setTimeout(resolve, 20 + 20 * next()))
    child.kill('SIGKILL')
    await once(child, 'exit')
    const { step, damaged } = restore(dir)
    expect(damaged).toEqual([])
    expect(step).toBeGreaterThan(0)
    rmSync(dir, { recursive: true })
    mkdirSync(dir)
  }
})

describe('a damaged checkpoint is told of, and the one before is used', () => {
  test.each([
    ['truncated', (file: string) => truncateSync(file, 1000), 'parameters.safetensors'],
    [
      'with a byte changed',
      (file: string) => {
        const bytes = readFileSync(file)
        bytes[bytes.length - 1]! ^= 1
        writeFileSync(file, bytes)
      },
      'optimizer.safetensors',
    ],
    ['without a file', (file: string) => rmSync(file), 'parameters.safetensors'],
    ['with a state that is not JSON', (file: string) => writeFileSync(file, '{'), 'state.json'],
    ['with a state that says too little', (file: string) => writeFileSync(file, '{"format_version": 1}'), 'state.json'],
  ])('%s', (_name, damage, file) => {
    save(dir, 1)
    damage(path.join(save(dir, 2), file))
    expect(restore(dir)).toEqual({ step: 1, damaged: ['step-00000002'] })
  })
})

test('a checkpoint of a newer loram is refused', () => {
  const file = path.join(save(dir, 1), 'state.json')
  writeFileSync(file, readFileSync(file, 'utf8').replace('"format_version": 1', '"format_version": 99'))
  expect(() => restore(dir)).toThrow(/E_VERSION/)
})

test('one of the same step is replaced, and stays where that fails', () => {
  save(dir, 1)
  expect(save(dir, 1)).toBe(path.join(dir, 'step-00000001'))
  const { parameters, optimizer } = empty()
  const gather = () => {
    throw new Error('on purpose')
  }
  const progress = { step: 1, batches: { epoch: 0, position: 1 }, evaluatedStep: 0, evaluationsSinceBest: 0 }
  const failing = Object.assign(Object.create(parameters), { gather })
  expect(() => saveCheckpoint(dir, failing, optimizer, progress, 2)).toThrow('on purpose')
  expect(readdirSync(dir)).toEqual(['step-00000001'])
  expect(restore(dir)).toEqual({ step: 1, damaged: [] })
})

test('one of other parameters is refused by name', () => {
  save(dir, 1)
  const parameters = new ParameterSet(cpu, new Map([['weight', [128, 512]]]))
  const found = 'weight [256, 256]'
  expectError(() => restoreNewest(dir, parameters, new AdamW(parameters, adamWDefaults), () => {}), 'E_RESUME', {
    found,
  })
  const none = new ParameterSet(cpu, new Map())
  const details = { expected: 'no more tensors', found }
  expectError(() => loadParameters(path.join(dir, 'step-00000001/parameters.safetensors'), none), 'E_RESUME', details)
})

test('only the newest are kept', () => {
  for (const step of [1, 2, 3, 4]) save(dir, step)
  expect(readdirSync(dir)).toEqual(['step-00000003', 'step-00000004'])
})

describe('a full disk', () => {
  const mount = path.join(root, 'small')
  const mounted = tryMount(mount, '1300k')
  afterAll(() => {
    if (mounted) execFileSync('umount', [mount])
  })

  test.skipIf(!mounted)(
    `stops with E_DISK and leaves the checkpoint before (skipped: ${mounted ? '' : 'no rights to mount a tmpfs'})`,
    () => {
      save(mount, 1) // three quarters of a megabyte: a second does not fit
      expect(() => save(mount, 2)).toThrow(/E_DISK/)
      expect(readdirSync(mount)).toEqual(['step-00000001'])
      expect(restore(mount).step).toBe(1)
    },
  )
})

function tryMount(folder: string, size: string): boolean {
  mkdirSync(folder)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder], { stdio: 'ignore' })
    return existsSync(folder)
  } catch {
    return false
  }
}
