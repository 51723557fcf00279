import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, test } from 'vitest'
import { addAdapter, loraDefaults } from '../../src/lora/attach.ts'
import { fullMicroBatch } from '../../src/memory/measure.ts'
import { planTraining } from '../../src/memory/planner.ts'
import { copy } from '../../src/native/cast.ts'
import { Arena } from '../../src/tensor/arena.ts'
import { cudaStatus, gpu, openDevice } from '../../src/tensor/device.ts'
import type { Device } from '../../src/tensor/tensor.ts'
import { trainStep } from '../../src/train/step.ts'
import { expectError } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { loadDirectory } from '../model/support.ts'
import { random } from '../ops/support.ts'
import { batchOf, trainerOf } from '../train/support.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Bytes that tensors hold once everything that nothing points to is gone. */
async function heldBytes(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    collect()
    await new Promise((resolve) => setImmediate(resolve))
  }
  return gpu().allocatedBytes
}

const reason = cudaStatus()
if (reason) test.skip(`the GPU (skipped: ${reason})`)
else describe('the GPU', () => faults(openDevice('cuda')))

function faults(device: Device): void {
  const shape = { quantize: 'nf4', lora: loraDefaults, microBatchSize: 2, sequenceLength: 64 } as const

  function train() {
    const model = loadDirectory(goldenPath('models', 'llama2'), device, 'nf4')
    const parameters = addAdapter(model, shape.lora, 0)
    const plan = planTraining(model.config, shape, 'none', device)
    const arena = new Arena(device, plan.bytes.activations)
    const trainer = trainerOf(model, parameters, { arena })
    const step = () => trainStep(trainer, batchOf(fullMicroBatch(shape.microBatchSize * shape.sequenceLength)), 1e-3)
    return { plan, arena, step }
  }

  test('says what was asked and what is free when memory runs out, and works on', () => {
    const { freeBytes } = gpu()
    expectError(() => device.empty([2 ** 40], 'u8'), 'E_GPU_OOM', { expected: `${2 ** 40} bytes more` })
    expectError(() => new Arena(device, 2 ** 41), 'E_GPU_OOM')
    expect(gpu().freeBytes).toBe(freeBytes)
    const x = random(device, [7, 61])
    expect(copy(x).read()).toEqual(x.read())
  })

  test('runs a job that fits after one that did not', () => {
    const { arena, step } = train()
    arena.empty([arena.peak + 1], 'u8')
    expectError(step, 'E_MEMORY')
    expect(Number.isFinite(train().step().loss)).toBe(true)
  })

  test('holds what the plan says, within a percent', async () => {
    const before = await heldBytes()
    const { plan, step } = train()
    step()
    const held = (await heldBytes()) - before
    expect(Math.abs(held - plan.bytes.total)).toBeLessThan(0.01 * plan.bytes.total)
    expect(step().loss).toBeGreaterThan(0)
  })

  test('has all of its memory back after 50 runs', async () => {
    const before = await heldBytes()
    for (let run = 0; run < 50; run++) {
      const { arena, step } = train()
      step()
      arena.dispose()
    }
    expect(await heldBytes()).toBe(before)
  })

  test('names the op that broke it, and refuses every later call at once', () => {
    const script = fileURLToPath(new URL('gpuBroken.mjs', import.meta.url))
    const env = { ...process.env, CUDA_LAUNCH_BLOCKING: '1' }
    const errors = JSON.parse(execFileSync(process.execPath, [script], { env, encoding: 'utf8' }))
    expect(errors).toEqual([
      { code: 'E_CUDA', message: expect.stringMatching(/^in embedding: an illegal memory access/) },
      { code: 'E_CUDA', message: expect.stringMatching(/^the GPU stopped working earlier, in embedding/) },
      { code: 'E_CUDA', message: expect.stringMatching(/^the GPU stopped working earlier, in embedding/) },
    ])
  })
}
