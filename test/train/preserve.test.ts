import { describe, expect, test } from 'vitest'
import type { MicroBatch } from '../../src/data/batches.ts'
import { addAdapter, loraDefaults } from '../../src/lora/attach.ts'
import { cpu } from '../../src/tensor/device.ts'
import type { Device } from '../../src/tensor/tensor.ts'
import { type Preservation, preservation } from '../../src/train/preserve.ts'
import { trainStep } from '../../src/train/step.ts'
import { inMemory } from '../data/support.ts'
import { goldenPath } from '../golden.ts'
import { loadDirectory } from '../model/support.ts'
import { onEveryDevice } from '../ops/support.ts'
import { calibration } from '../prune/loram.ts'
import { backward, batchOf, expectSlopes, trainerOf } from './support.ts'

const text = inMemory(
  Array.from({ length: 6 }, (_, i) => {
    const ids = Int32Array.from({ length: 12 }, (_, j) => (7 * i + 3 * j) % 50)
    return { ids, targets: Int32Array.from([...ids.subarray(1), -100]) }
  }),
)
const options = { batchSize: 2, microBatchSize: 1, sequenceLength: 12, seed: 1 }
const batch = batchOf(calibration)

function setUp(device: Device, weight: number) {
  const model = loadDirectory(goldenPath('loram', 'pruned'), device)
  const parameters = addAdapter(model, { ...loraDefaults, rank: 4, alpha: 8 }, 3)
  const preserve = preservation(model, text, { ...options, weight })
  return { parameters, preserve, trainer: trainerOf(model, parameters, { preserve }) }
}

/** What the divergence adds to a loss of nothing else. */
const divergence = ({ trainer }: ReturnType<typeof setUp>) => backward(trainer, { ...batch, microBatches: [] })

onEveryDevice('training that preserves predictions', (device) => {
  test('begins without divergence: the adapter changes nothing yet', () => {
    expect(divergence(setUp(device, 10))).toBeCloseTo(0, 5)
  })

  // Slopes of a loss that is computed in bf16 are lost in its rounding.
  test.runIf(device.activations === 'f32')('has the slopes of its loss', () => {
    const { trainer } = setUp(device, 0.7)
    for (let i = 0; i < 3; i++) trainStep(trainer, batch, 1e-2)
    expectSlopes(trainer, batch)
  })

  test('diverges less, the more weight that has', () => {
    const [free, held] = [1e-6, 10].map((weight) => {
      const { trainer, ...rest } = setUp(device, weight)
      for (let i = 0; i < 8; i++) trainStep(trainer, batch, 1e-2)
      return divergence({ ...rest, trainer }) / weight
    })
    expect(held).toBeLessThan(free! / 2)
  })
})

describe('the text of a step', () => {
  const idsAt = ({ batchAt }: Preservation, step: number) =>
    batchAt(step).microBatches.map(({ ids }: MicroBatch) => ids.join())
  const model = loadDirectory(goldenPath('loram', 'pruned'), cpu)
  const make = (over = {}) => preservation(model, text, { ...options, weight: 1, ...over })

  test('follows from the step, also where a run goes on', () => {
    const whole = make()
    const steps = [0, 1, 2, 3, 4, 5, 6].map((step) => idsAt(whole, step))
    expect(new Set(steps.slice(0, 3).flat()).size).toBe(6)
    const resumed = make()
    expect([4, 5, 6].map((step) => idsAt(resumed, step))).toEqual(steps.slice(4))
  })

  test('is all of it where there is less than a batch', () => {
    const { batchAt } = make({ batchSize: 100 })
    expect(batchAt(0).examples).toHaveLength(6)
  })
})
