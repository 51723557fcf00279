import { createHash } from 'node:crypto'
import { expect, test, vi } from 'vitest'
import type { MicroBatch } from '../../src/data/batches.ts'
import { addAdapter, loraDefaults } from '../../src/lora/attach.ts'
import { cpu, metaDevice } from '../../src/tensor/device.ts'
import * as hostMemory from '../../src/tensor/hostMemory.ts'
import { type Device, type Tensor, zeros } from '../../src/tensor/tensor.ts'
import { offloadMemory } from '../../src/train/offload.ts'
import {
  describeRecompute,
  type RecomputeChoice,
  type RecomputePlan,
  recomputePlans,
  sendingLayers,
  uniform,
} from '../../src/train/recompute.ts'
import { accumulate, trainStep } from '../../src/train/step.ts'
import { expectError } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { goldenBatch, loadDirectory } from '../model/support.ts'
import { onEveryDevice, random, readGolden } from '../ops/support.ts'
import { prunedConfigOf } from '../prune/paperModels.ts'
import { batchOf, trainerOf } from './support.ts'

vi.mock('../../src/tensor/hostMemory.ts', { spy: true })

const batch = goldenBatch(readGolden('loram', 'golden.safetensors'))
const layers = 4

/**
 * Loss and a digest of the gradients of two micro-batches, the second smaller, on a pruned model in NF4 whose pairs are not
 * zero; before them a micro-batch stops in backward of layer `stopsIn`.
 */
function gradients(device: Device, recompute: RecomputePlan, stopsIn?: number) {
  const model = loadDirectory(goldenPath('loram', 'pruned'), device, 'nf4')
  const parameters = addAdapter(model, { ...loraDefaults, dropout: 0.25 }, 3)
  parameters.values.write(random(device, [parameters.values.elements]).read())
  parameters.round()
  const host = offloadMemory(device, model.config, recompute, batch.ids.length)
  const dropout = { rate: 0.25, seed: 7 }
  const trainer = trainerOf(model, parameters, { host, recompute, dropout, maxGradNorm: 0 })
  if (stopsIn !== undefined) {
    const loss = zeros(device, [1], 'f32')
    const aroundLayer = (layer: number, backward: () => void) => {
      if (layer === stopsIn) throw new Error('stopped')
      backward()
    }
    expect(() => accumulate(trainer, batch, 1, loss, { aroundLayer })).toThrow('stopped')
    trainer.arena.release(0)
  }
  const { loss } = trainStep(trainer, batchOf(batch, firstExample(batch)), 0)
  const digest = createHash('sha256').update(parameters.grads.read()).digest('hex')
  return { loss, digest }
}

function firstExample({ ids, targets, positions, bounds }: MicroBatch): MicroBatch {
  const end = bounds[1]!
  const part = (values: Int32Array) => values.slice(0, end)
  return { ids: part(ids), targets: part(targets), positions: part(positions), bounds: Int32Array.of(0, end) }
}

const plans: RecomputePlan[] = [
  uniform('cheap', layers),
  uniform('full', layers),
  ...[
    { cheap: 3, none: 1 },
    { full: 1, cheap: 2, none: 1 },
    { full: 2, cheap: 1, none: 1, offloaded: 1 },
    { full: 2, none: 2, offloaded: 2 },
    { full: 4, offloaded: 3 },
    { full: 4, offloadedOutputs: 1 },
    { full: 2, cheap: 2, offloadedOutputs: 2 },
    { full: 4, offloaded: 2, offloadedOutputs: 3 },
    { full: 4, offloaded: 3, offloadedOutputs: 4 },
  ].map((counts) => ({ ...uniform('none', 0), ...counts })),
]

onEveryDevice('recompute', (device) => {
  const want = gradients(device, uniform('none', layers))

  test.each(plans.map((plan) => [describeRecompute(plan), plan] as const))('%s has the bits of none', (_name, plan) => {
    expect(gradients(device, plan)).toEqual(want)
  })

  test('goes on after a step that stopped while what was offloaded came back from the host', () => {
    expect(gradients(device, { ...uniform('full', 4), offloaded: 3, offloadedOutputs: 4 }, 2)).toEqual(want)
  })
})

test.each(plans.filter(({ offloaded, offloadedOutputs }) => offloaded + Math.max(0, offloadedOutputs - 2) > 0))(
  'offloading waits for each transfer before it counts on it: $offloaded of 4 layers, outputs of $offloadedOutputs',
  (plan) => {
    const want = gradients(cpu, uniform('none', layers))
    let underWay: { lane: number; x: Tensor; y: Tensor }[] = []
    // As late as a copy stream may be: not before somebody waits for its lane.
    const late = vi.mocked(hostMemory.transfer).mockImplementation((x, y, lane) => void underWay.push({ lane, x, y }))
    const wait = vi.mocked(hostMemory.awaitTransfers).mockImplementation((_device, lane) => {
      for (const { x, y } of underWay.filter((one) => one.lane === lane)) y.write(x.read())
      underWay = underWay.filter((one) => one.lane !== lane)
    })
    try {
      expect(gradients(cpu, plan)).toEqual(want)
      expect(late).toHaveBeenCalled()
      expect(underWay).toHaveLength(0)
      expect(gradients(cpu, plan, 1)).toEqual(want)
    } finally {
      late.mockRestore()
      wait.mockRestore()
    }
  },
)

test.each<[RecomputeChoice, number]>([
  [{ recompute: 'auto' }, 1 + 3 * layers - 1],
  [{ recompute: 'auto', offload: false }, 1 + 2 * layers],
  [{ recompute: 'auto', offload: true }, 1],
  [{ recompute: 'full' }, layers],
  [{ recompute: 'full', offload: false }, 1],
  [{ recompute: 'cheap' }, 1],
  [{ recompute: 'none' }, 1],
])('%o leaves plans for every layer on the GPU', (choice, count) => {
  const found = recomputePlans(choice, layers, metaDevice('cuda'))
  expect(found).toHaveLength(count)
  for (const { none, cheap, full, offloaded } of found) {
    expect(none + cheap + full).toBe(layers)
    expect(offloaded).toBeLessThanOrEqual(full)
  }
})

test('nothing is offloaded from a CPU, or where no layer runs again', () => {
  expect(recomputePlans({ recompute: 'full' }, layers, cpu)).toEqual([uniform('full', layers)])
  expectError(() => recomputePlans({ recompute: 'auto', offload: true }, layers, cpu), 'E_CONFIG', {
    field: 'offload',
    found: 'the CPU',
  })
  expectError(() => recomputePlans({ recompute: 'cheap', offload: true }, layers, metaDevice('cuda')), 'E_CONFIG')
})

test.each([1, 2, 3, 7, 37, 72, 73, 74])('outputs of %i layers are offloaded, of the widths that most have', (count) => {
  const config = prunedConfigOf('LLaMA-3.1-70B', 0.85)
  const found = sendingLayers(config, { ...uniform('full', 80), offloadedOutputs: count })
  expect(found).toHaveLength(count)
  expect(new Set(found.map((layer) => config.layers[layer]!.intermediateSize)).size).toBe(1)
  const gaps = found.slice(1).map((layer, i) => layer - found[i]!)
  if (count > 1) expect(Math.max(...gaps) - Math.min(...gaps)).toBeLessThanOrEqual(1)
})

test('plans are told in words', () => {
  expect(describeRecompute(uniform('full', 4))).toBe('full')
  expect(describeRecompute({ ...uniform('cheap', 3), full: 2, offloaded: 1 })).toBe(
    'full for 2 layers (1 offloaded), cheap for 3 layers',
  )
  expect(describeRecompute({ ...uniform('full', 4), offloaded: 3, offloadedOutputs: 2 })).toBe(
    'full for 4 layers (3 offloaded, outputs of 2 offloaded)',
  )
})
