import { expect, test } from 'vitest'
import { MemoryError } from '../../src/errors.ts'
import { loraDefaults } from '../../src/lora/attach.ts'
import { formatBytes } from '../../src/memory/bytes.ts'
import { planTraining } from '../../src/memory/planner.ts'
import { describeSavings, withSavings } from '../../src/memory/savings.ts'
import { metaDevice } from '../../src/tensor/device.ts'
import { uniform } from '../../src/train/recompute.ts'
import { configOf, prunedConfigOf } from '../prune/paperModels.ts'

const device = metaDevice('cuda')
const shape = { quantize: 'nf4', lora: loraDefaults, microBatchSize: 4, sequenceLength: 512 } as const

test('are the settings that save most, each by itself, by what planning it gives', () => {
  const config = configOf('LLaMA-2-13B')
  const plan = planTraining(config, shape, uniform('full', 40), device)
  const pruned = planTraining(prunedConfigOf('LLaMA-2-13B', 0.5), shape, uniform('full', 40), device)
  const offloaded = planTraining(config, shape, { ...uniform('full', 40), offloaded: 39 }, device)
  const saved = (other: typeof plan) => formatBytes(plan.bytes.total - other.bytes.total)
  expect(describeSavings(config, shape, plan, device).split('; ')).toEqual([
    `prune.ratio 0.5 saves ${saved(pruned)}`,
    `offload true saves ${saved(offloaded)}`,
    expect.stringMatching(/^microBatchSize 2 saves/),
  ])
})

test('end up in the error of a GPU that is full, and in no other', () => {
  const config = prunedConfigOf('LLaMA-2-13B', 0.95)
  const plan = planTraining(config, shape, uniform('none', 40), device)
  const full = new MemoryError('E_GPU_OOM', 'the GPU is out of memory', { expected: '9 bytes more', remedy: 'less' })
  expect(withSavings(full, config, shape, plan, device)).toMatchObject({
    code: 'E_GPU_OOM',
    details: {
      expected: '9 bytes more',
      remedy: expect.stringMatching(/^offload true saves .*; recompute full saves /),
    },
  })
  const other = new Error('other')
  expect(withSavings(other, config, shape, plan, device)).toBe(other)
})
