import path from 'node:path'
import { expect, test } from 'vitest'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import { arenaFor } from '../../src/memory/measure.ts'
import { expectedTensors } from '../../src/model/config.ts'
import type { Model } from '../../src/model/model.ts'
import { openModelFolder } from '../../src/model/open.ts'
import type { Arena } from '../../src/tensor/arena.ts'
import { type Device, zeros } from '../../src/tensor/tensor.ts'
import { alignedNames, openTrainable, writeAligned } from '../../src/train/align.ts'
import { recomputes, uniform } from '../../src/train/recompute.ts'
import { accumulate, trainStep } from '../../src/train/step.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectGolden, goldenBatch } from '../model/support.ts'
import { onEveryDevice, readGolden } from '../ops/support.ts'
import { backward, batchOf, expectSlopes, trainerOf } from './support.ts'

const batchOfModel = (name: string) => goldenBatch(readGolden('models', name, 'golden.safetensors'), 'right.')

/** A golden model of which every weight trains, the output head included. */
function openWhole(name: string, device: Device) {
  const folder = openModelFolder(goldenPath('models', name))
  return openTrainable(folder, Array.from(expectedTensors(folder.config).keys()), device)
}

test.each([
  ['llama3', 'lm_head.weight'],
  ['llama3-tied', 'model.embed_tokens.weight'],
])('alignment of %s leaves %s as it is', (name, fixed) => {
  const folder = openModelFolder(goldenPath('models', name))
  const all = Array.from(expectedTensors(folder.config).keys())
  expect(alignedNames(folder)).toEqual(all.filter((tensor) => tensor !== fixed))
})

onEveryDevice('weights that train', (device) => {
  test.each(recomputes)('have the gradients of transformers, recompute %s', (recompute) => {
    const golden = readGolden('models', 'llama3', 'golden.safetensors')
    const { model, parameters } = openWhole('llama3', device)
    const trainer = trainerOf(model, parameters, { recompute: uniform(recompute, model.layers.length) })
    expectGolden([backward(trainer, batchOf(batchOfModel('llama3')))], golden('right.loss').data)
    for (const [name, { grad }] of parameters.byName) expectGolden(grad, golden(`grad.${name}`).data)
  })

  // Slopes of a loss that is computed in bf16 are lost in its rounding.
  test.runIf(device.activations === 'f32').each([
    ['llama3-tied', 'embedding and output head at once'],
    ['mistral', 'within a sliding window'],
    ['qwen2', 'biases of q, k and v among them'],
    ['qwen3', 'norms of query and key heads among them'],
  ])('of %s, %s, have the slopes of the loss as gradients', (name) => {
    const { model, parameters } = openWhole(name, device)
    expectSlopes(trainerOf(model, parameters), batchOf(batchOfModel(name)))
  })

  test.each(['llama3', 'qwen2', 'qwen3'].flatMap((name) => recomputes.map((recompute) => [name, recompute] as const)))(
    'of %s take the arena that their model without gradients plans, recompute %s',
    (name, recompute) => {
      const { model } = openWhole(name, device)
      const micro = batchOfModel(name)
      const work = (of: Model, arena: Arena) =>
        accumulate(
          { model: of, arena, recompute: uniform(recompute, of.layers.length) },
          micro,
          1,
          zeros(arena, [1], 'f32'),
        )
      let planned = 0
      const arena = arenaFor(model, (twin, meta) => {
        work(twin, meta)
        planned = meta.peak
      })
      work(model, arena)
      expect(arena.peak).toBe(planned)
    },
  )
})

onEveryDevice('an aligned model', (device) => {
  const scratch = scratchFolder()

  test('has learnt, but for its output head, and is written as the original was', () => {
    const folder = openModelFolder(goldenPath('loram', 'pruned'))
    const { model, parameters } = openTrainable(folder, alignedNames(folder), device)
    const trainer = trainerOf(model, parameters)
    const batch = batchOf(goldenBatch(readGolden('loram', 'golden.safetensors')))
    const losses = Array.from({ length: 8 }, () => trainStep(trainer, batch, 1e-3).loss)
    expect(losses.at(-1)).toBeLessThan(losses[0]! / 2)

    const dir = path.join(scratch, 'aligned')
    writeAligned(folder.checkpoint, parameters, dir)
    const written = openCheckpoint(dir)
    expect(Array.from(written.tensors)).toEqual(Array.from(folder.checkpoint.tensors))
    for (const name of written.tensors.keys()) {
      const same = Buffer.compare(written.read(name), folder.checkpoint.read(name)) === 0
      expect(same, name).toBe(name === 'lm_head.weight')
    }
  })
})
