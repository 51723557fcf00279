import { expect, test } from 'vitest'
import { planAlignment } from '../../src/memory/alignment.ts'
import { expectedTensors } from '../../src/model/config.ts'
import { heldBytes } from '../../src/model/model.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { cpu, metaDevice } from '../../src/tensor/device.ts'
import { bytesOn } from '../../src/tensor/tensor.ts'
import { AdamW, adamWDefaults } from '../../src/train/adamW.ts'
import { alignedNames, openTrainable } from '../../src/train/align.ts'
import { goldenPath } from '../golden.ts'

const folder = openModelFolder(goldenPath('models', 'llama3'))
const shape = { microBatchSize: 2, sequenceLength: 16 }
const planOf = (gpus: number, budget = Number.POSITIVE_INFINITY, device = cpu) =>
  planAlignment(folder.config, shape, { recompute: 'auto' }, gpus, budget, device)

test.each([1, 3])('what alignment holds on each of %i devices is what was planned', (size) => {
  const { model, parameters } = openTrainable(folder, alignedNames(folder), cpu, { rank: size - 1, size })
  const { firstMoment, secondMoment } = new AdamW(parameters, adamWDefaults)
  const own = size > 1 ? parameters.values.bytes : 0
  expect(planOf(size).bytes).toMatchObject({
    weights: heldBytes(model),
    gradients: parameters.grads.bytes,
    state: own + firstMoment.bytes + secondMoment.bytes,
  })
})

test('a GPU that divides weights holds them in bf16, and so much less than alone', () => {
  const device = metaDevice('cuda')
  const [one, many] = [planOf(1, undefined, device).bytes, planOf(1000, undefined, device).bytes]
  // 4 for value, 4 for gradient, 8 for moments, beside 2 and 4; the head is in bf16 in both, and rows are padded
  expect((one.total - one.activations) / (many.total - many.activations)).toBeGreaterThan(2)
  expect(many.activations).toBe(one.activations)
  // what is in f32 is rounded for products
  const largest = Math.max(
    ...Array.from(expectedTensors(folder.config).values(), (weight) => bytesOn(device, weight, 'bf16')),
  )
  expect(one.scratch).toBe(largest)
  expect(many.scratch).toBeLessThan(largest)
})

test('what does not fit recomputes, and then says so', () => {
  const { bytes } = planOf(2)
  expect(planOf(2, bytes.total - 1)).toMatchObject({ fits: true, recompute: { none: expect.any(Number) } })
  expect(planOf(2, bytes.total - 1).bytes.activations).toBeLessThan(bytes.activations)
  expect(planOf(2, 1).fits).toBe(false)
})
