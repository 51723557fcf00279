import path from 'node:path'
import { expect, test } from 'vitest'
import { alone } from '../../src/distributed/group.ts'
import { type Checkpoint, openCheckpoint } from '../../src/formats/huggingFace.ts'
import type { PruningPlan } from '../../src/formats/pruningJson.ts'
import { arenaFor } from '../../src/memory/measure.ts'
import { expectedTensors } from '../../src/model/config.ts'
import type { Model } from '../../src/model/model.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { readTensor } from '../../src/model/weights.ts'
import { cast } from '../../src/native/cast.ts'
import { alignOptions } from '../../src/options/index.ts'
import { writeSparse } from '../../src/prune/sparse.ts'
import type { Arena } from '../../src/tensor/arena.ts'
import { cpu } from '../../src/tensor/device.ts'
import { type Device, zeros } from '../../src/tensor/tensor.ts'
import { align, alignedNames, openTrainable, writeAligned } from '../../src/train/align.ts'
import type { RunEvent } from '../../src/train/events.ts'
import { recomputes, uniform } from '../../src/train/recompute.ts'
import { accumulate, trainStep } from '../../src/train/step.ts'
import { validate } from '../../src/validate.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { inMemory } from '../data/support.ts'
import { expectError, scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectGolden, goldenBatch, loadDirectory } from '../model/support.ts'
import { onEveryDevice, readGolden, toArray } from '../ops/support.ts'
import { calibration, calibrationText, loramPlan } from '../prune/loram.ts'
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

/** A model whose weights are cut by magnitude, 4 of 8. */
function writeMagnitude(dir: string) {
  const source = openModelFolder(goldenPath('loram', 'large'))
  const { kept: _kept, ...rest } = loramPlan
  const plan = { ...rest, method: 'magnitude', ratio: 0.5, layers: [0, 4], pattern: '4:8', kept: [] } as PruningPlan
  writeSparse(source, plan, { criterion: 'magnitude', cut: { n: 4, m: 8 }, signal: neverAborted }, [], cpu, dir)
  return { dir }
}

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

onEveryDevice('alignment', (device) => {
  const scratch = scratchFolder()
  const pruned = openModelFolder(goldenPath('loram', 'pruned'))
  const large = goldenPath('loram', 'large')
  const schedule = validate(alignOptions, {
    data: 'unused',
    steps: 12,
    batchSize: 4,
    sequenceLength: 16,
    learningRate: 2e-3,
  })
  const distill = { teacher: large, weight: 0.5, temperature: 1, quantize: 'none', hold: 'resident' } as const
  let runs = 0
  /** Aligns and gives the losses of all steps, and the folder. */
  function run(over: Partial<Parameters<typeof align>[2]>, source = pruned) {
    const losses: number[] = []
    const emit = (event: RunEvent) => void (event.type === 'step' && losses.push(event.loss))
    const dir = path.join(scratch, `aligned ${runs++}`)
    const options = { ...schedule, seed: 1, resume: false, ...over }
    align(source, inMemory(calibrationText), options, device, `${dir}.checkpoints`, dir, {
      emit,
      signal: neverAborted,
      group: alone,
    })
    return { losses, dir, aligned: openModelFolder(dir).checkpoint }
  }
  const changed = ({ checkpoint }: typeof pruned, aligned: Checkpoint) =>
    Array.from(checkpoint.tensors.keys()).filter(
      (name) => Buffer.compare(checkpoint.read(name), aligned.read(name)) !== 0,
    )

  test('by pairs learns, changes the projections alone, and merges what was trained', () => {
    const { losses, aligned } = run({ lora: { rank: 4, alpha: 8, quantize: 'none' } })
    expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.1)
    expect(changed(pruned, aligned).every((name) => /_proj\.weight$/.test(name))).toBe(true)
    expect(changed(pruned, aligned)).toHaveLength(4 * 7)
    expect(aligned.pruning).toEqual(pruned.checkpoint.pruning)
  })

  test('by pairs leaves the zeros of a sparse model', () => {
    const { dir } = writeMagnitude(path.join(scratch, `sparse ${runs++}`))
    const sparse = openModelFolder(dir)
    const { aligned } = run({ lora: { rank: 4, alpha: 8, quantize: 'nf4' } }, sparse)
    const name = 'model.layers.1.mlp.up_proj.weight'
    const [before, after] = [sparse.checkpoint, aligned].map((of) => toArray(cast(readTensor(of, name, cpu), 'f32')))
    expect(after!.map((value) => Number(value === 0))).toEqual(before!.map((value) => Number(value === 0)))
    expect(after).not.toEqual(before)
  })

  test.each(['resident', 'streamed'] as const)(
    'distils: a student that is the teacher has nothing to learn, %s',
    (hold) => {
      const itself = openModelFolder(large)
      const { losses } = run({ steps: 2, distill: { ...distill, weight: 1, hold } }, itself)
      // The first step's loss is the divergence from itself; in bf16 that is rounding.
      expect(losses[0]).toBeLessThan(device.activations === 'f32' ? 1e-6 : 1e-3)
    },
  )

  test('distils: the divergence from the original falls, the same for a teacher that is streamed', () => {
    const resident = run({ distill: { ...distill, weight: 1, temperature: 2 } })
    expect(resident.losses.at(-1)).toBeLessThan(0.7 * resident.losses[0]!)
    const streamed = run({ distill: { ...distill, weight: 1, temperature: 2, hold: 'streamed' } })
    expect(streamed.losses).toEqual(resident.losses)
  })

  test.each(recomputes)('has the slopes of the mixed loss, recompute %s', (recompute) => {
    if (device.activations !== 'f32') return
    const { model, parameters } = openTrainable(
      pruned,
      ['model.norm.weight', 'model.layers.1.mlp.down_proj.weight'],
      device,
    )
    const teacher = { model: loadDirectory(large, device), weight: 0.6, temperature: 1.5 }
    expectSlopes(trainerOf(model, parameters, { recompute: uniform(recompute, 4), teacher }), batchOf(calibration))
  })

  test('without a teacher, or with one of another vocabulary, is refused', () => {
    const { teacher: _named, ...unnamed } = distill
    expectError(() => run({ distill: unnamed }), 'E_CONFIG', { field: 'align.distill.teacher' })
  })
})
