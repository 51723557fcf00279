import { expect, test } from 'vitest'
import type { MicroBatch } from '../../src/data/batches.ts'
import { readAdapter } from '../../src/formats/peft.ts'
import { linearForward } from '../../src/model/linear.ts'
import { type Device, zeros } from '../../src/tensor/tensor.ts'
import { type Trainer, trainStep } from '../../src/train/step.ts'
import { goldenPath } from '../golden.ts'
import { expectGolden, forwardLogits, goldenBatch, loadDirectory } from '../model/support.ts'
import { expectWithin, largest, onEveryDevice, random, readGolden, storing, unitRoundoff } from '../ops/support.ts'
import { batchOf, expectSlopes, trainAdapter, trainerOf } from './support.ts'

const golden = readGolden('lora', 'golden.safetensors')
const adapter = readAdapter(goldenPath('lora', 'adapter'))
const batch = goldenBatch(golden)
const base = (device: Device) => loadDirectory(goldenPath('models', 'llama3'), device)

onEveryDevice('a training step', (device) => {
  const dropout = { rate: 0.25, seed: 7 }
  /** Loss and gradients of golden micro-batches, in this order, as a step without an update computes them. */
  const gradients = (options: Partial<Trainer>, micros: readonly MicroBatch[] = [batch]) => {
    const model = base(device)
    const trainer = trainerOf(model, trainAdapter(model, adapter), { maxGradNorm: 0, ...options })
    const { loss } = trainStep(trainer, batchOf(...micros), 0)
    return { loss, grads: trainer.parameters.grads.read() as Float32Array }
  }

  test('learns the same from examples together and one at a time', () => {
    const alone = Array.from({ length: batch.bounds.length - 1 }, (_, i) => exampleOf(batch, i))
    const together = gradients({})
    const apart = gradients({}, alone)
    // Two sums over the same tokens in different orders, each off by at most tokens * u of the terms' magnitudes,
    // which in bf16 come from activations of another rounding.
    const bound = 2 * batch.ids.length * unitRoundoff.f32 + 4 * storing(device.activations)
    expectWithin([apart.loss], [together.loss], (want) => bound * want)
    const scale = largest(together.grads)
    expectWithin(apart.grads, together.grads, () => bound * scale)
  })

  test('gives an example the same logits whatever is packed beside it', () => {
    const model = base(device)
    const packed = forwardLogits(model, batch)
    const alone = Array.from({ length: batch.bounds.length - 1 }, (_, i) => forwardLogits(model, exampleOf(batch, i)))
    expectGolden(
      alone.flatMap((logits) => Array.from(logits)),
      packed,
    )
  })

  test('draws the same dropout masks for the same seed', () => {
    expect(gradients({ dropout })).toEqual(gradients({ dropout }))
    expect(gradients({ dropout: { ...dropout, seed: 8 } }).loss).not.toBe(gradients({ dropout }).loss)
  })

  test('draws new masks in every step and micro-batch', () => {
    const model = base(device)
    const trainer = trainerOf(model, trainAdapter(model, adapter), { dropout })
    const step = (...micros: MicroBatch[]) => trainStep(trainer, batchOf(...micros), 0).loss
    const first = step(batch)
    const second = step(batch)
    expect(second).not.toBe(first)
    const third = step(batch, batch)
    trainer.optimizer.step = 2
    expect(step(batch)).not.toBe(third)
  })

  test('draws masks of their own for every pair', () => {
    const x = random(device, [8, 64])
    const pair = { a: random(device, [4, 64]), b: zeros(device, [32, 4], 'f32'), scale: 1 }
    const innerOf = (index: number) => {
      const linear = { weight: zeros(device, [32, 64], 'f32'), lora: { ...pair, index } }
      return linearForward(linear, x, { dropout: { ...dropout, stream: 0 } }).u!.read()
    }
    expect(innerOf(1)).not.toEqual(innerOf(0))
    expect(innerOf(0)).toEqual(innerOf(0))
  })

  // Slopes of a loss that is computed in bf16 are lost in its rounding.
  test.runIf(device.activations === 'f32')('goes back through the masks that it went forward through', () => {
    const model = base(device)
    expectSlopes(trainerOf(model, trainAdapter(model, adapter)), batchOf(batch), { ...dropout, stream: 2 ** 32 })
  })
})

/** Example `index` of a micro-batch, as a micro-batch. */
function exampleOf({ ids, targets, positions, bounds }: MicroBatch, index: number): MicroBatch {
  const [from, to] = bounds.subarray(index, index + 2) as unknown as [number, number]
  const part = (values: Int32Array) => values.slice(from, to)
  return { ids: part(ids), targets: part(targets), positions: part(positions), bounds: Int32Array.of(0, to - from) }
}
