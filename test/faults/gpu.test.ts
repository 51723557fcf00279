import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { addAdapter, loraDefaults } from '../../src/lora/attach.ts'
import { fullMicroBatch } from '../../src/memory/measure.ts'
import { planTraining } from '../../src/memory/planner.ts'
import { disposeModel } from '../../src/model/model.ts'
import { cast } from '../../src/native/cast.ts'
import { Arena } from '../../src/tensor/arena.ts'
import { cudaStatus, gpu, openDevice } from '../../src/tensor/device.ts'
import type { Device } from '../../src/tensor/tensor.ts'
import { offloadMemory } from '../../src/train/offload.ts'
import { uniform } from '../../src/train/recompute.ts'
import { trainStep } from '../../src/train/step.ts'
import { expectError } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { loadDirectory } from '../model/support.ts'
import { random } from '../ops/support.ts'
import { batchOf, trainerOf } from '../train/support.ts'

const reason = cudaStatus()
if (reason) test.skip(`the GPU (skipped: ${reason})`)
else describe('the GPU', () => faults(openDevice('cuda')))

function faults(device: Device): void {
  const layers = 3
  const offloading = { ...uniform('full', layers), offloaded: layers - 1 }
  const shape = { quantize: 'nf4', lora: loraDefaults, microBatchSize: 2, sequenceLength: 64 } as const

  function setUp(recompute = uniform('none', layers)) {
    const model = loadDirectory(goldenPath('models', 'llama2'), device, 'nf4')
    const parameters = addAdapter(model, shape.lora, 0)
    const plan = planTraining(model.config, shape, recompute, device)
    const arena = new Arena(device, plan.bytes.activations)
    const tokens = shape.microBatchSize * shape.sequenceLength
    const host = offloadMemory(device, model.config, recompute, tokens)
    const trainer = trainerOf(model, parameters, { arena, host, recompute })
    const step = () => trainStep(trainer, batchOf(fullMicroBatch(tokens)), 1e-3)
    const dispose = () => {
      disposeModel(model)
      for (const owner of [parameters, trainer.optimizer, arena, host]) owner?.dispose()
    }
    return { plan, arena, step, dispose }
  }

  test('says what was asked and what is free when memory runs out, and works on', () => {
    const { allocatedBytes } = gpu()
    expectError(() => device.empty([2 ** 40], 'u8'), 'E_GPU_OOM', { expected: `${2 ** 40} bytes more` })
    expectError(() => new Arena(device, 2 ** 41), 'E_GPU_OOM')
    expect(gpu().allocatedBytes).toBe(allocatedBytes)
    const x = random(device, [7, 61])
    expect(cast(x, x.dtype).read()).toEqual(x.read())
  })

  test('runs a job that fits after one that did not', () => {
    const { plan, arena, step, dispose } = setUp()
    const start = arena.mark()
    arena.empty([Math.ceil(plan.bytes.activations / 2)], 'u8')
    expectError(step, 'E_MEMORY')
    arena.release(start)
    expect(Number.isFinite(step().loss)).toBe(true)
    dispose()
  })

  test.each([uniform('none', layers), uniform('cheap', layers), offloading])(
    'holds what the plan says, within a percent: %o',
    (recompute) => {
      const before = gpu().allocatedBytes
      const { plan, step, dispose } = setUp(recompute)
      step()
      const held = gpu().allocatedBytes - before + plan.bytes.scratch
      expect(Math.abs(held - plan.bytes.total)).toBeLessThan(0.01 * plan.bytes.total)
      dispose()
    },
  )

  test('has all of its memory back after 50 runs', () => {
    const before = gpu().allocatedBytes
    for (let run = 0; run < 50; run++) {
      const { step, dispose } = setUp(run % 2 === 0 ? uniform('none', layers) : offloading)
      step()
      dispose()
    }
    expect(gpu().allocatedBytes).toBe(before)
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
