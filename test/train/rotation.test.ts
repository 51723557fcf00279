import { expect, test } from 'vitest'
import type { KeptLayer } from '../../src/formats/pruningJson.ts'
import { loraDefaults } from '../../src/lora/attach.ts'
import { linears, moduleOf, projectionNames } from '../../src/model/model.ts'
import { holds, openModelFolder } from '../../src/model/open.ts'
import { readTensor } from '../../src/model/weights.ts'
import { keptIndices } from '../../src/prune/plan.ts'
import { cpu } from '../../src/tensor/device.ts'
import type { Device, Tensor } from '../../src/tensor/tensor.ts'
import { Rotation, type RotationOptions } from '../../src/train/rotation.ts'
import { trainStep } from '../../src/train/step.ts'
import { goldenPath } from '../golden.ts'
import { loadDirectory, testArena } from '../model/support.ts'
import { generator, onEveryDevice, toArray } from '../ops/support.ts'
import { calibration, loramKept, loramPlan } from '../prune/loram.ts'
import { batchOf, expectSlopes, trainerOf } from './support.ts'

const original = openModelFolder(goldenPath('loram', 'large'))
const batch = batchOf(calibration)
const core: KeptLayer[] = loramKept.map(({ layer, channels }) => ({
  layer,
  channels: channels.filter((_, i) => i % 3 === 0),
  kvHeads: [],
}))

function rotate(device: Device, over: Partial<RotationOptions> = {}) {
  const model = loadDirectory(goldenPath('loram', 'pruned'), device)
  const lora = { ...loraDefaults, rank: 4, alpha: 8 }
  const arena = testArena(device)
  const options = { every: 2, rescale: false, hold: 'streamed', seed: 5, arena, ...over } as const
  const rotation = new Rotation(model, original, { ...loramPlan, core }, lora, options)
  const next = generator(3)
  for (const [name, { value }] of rotation.parameters.byName)
    if (name.endsWith('_B')) value.write(Float32Array.from({ length: value.elements }, () => 0.1 * next()))
  rotation.parameters.round()
  return { model, rotation, trainer: trainerOf(model, rotation.parameters, { rotation, arena }) }
}

/** The channels of layer 1 whose rows of up_proj the model has, found by their values. */
function channelsOf(model: ReturnType<typeof loadDirectory>): number[] {
  const whole = readTensor(original.checkpoint, `${moduleOf(1, 'up')}.weight`, cpu)
  const rowsOf = (tensor: Tensor) => {
    const values = toArray(tensor)
    const columns = tensor.shape[1]!
    return Array.from({ length: tensor.shape[0]! }, (_, i) => values.subarray(i * columns, (i + 1) * columns).join())
  }
  const all = rowsOf(whole)
  return rowsOf(model.layers[1]!.up.weight as Tensor).map((row) => all.indexOf(row))
}

onEveryDevice('a model that is another slice every few steps', (device) => {
  test.runIf(device.activations === 'f32').each(holds)(
    'has the core in every slice, as much as the plan keeps, and others by seed and step: %s',
    (hold) => {
      const { model, rotation } = rotate(device, { hold })
      const seen = [0, 1, 2, 3, 4].map((step) => {
        rotation.before(step)
        return channelsOf(model)
      })
      for (const channels of seen) {
        expect(channels).toHaveLength(loramKept[0]!.channels.length)
        expect(channels).toEqual([...new Set(channels)].sort((a, b) => a - b))
        expect(channels).toEqual(expect.arrayContaining(core[0]!.channels))
      }
      expect(seen[1]).toEqual(seen[0])
      expect(seen[2]).not.toEqual(seen[0])
      expect(seen[4]).not.toEqual(seen[2])
      const again = rotate(device)
      again.rotation.before(4)
      expect(channelsOf(again.model)).toEqual(seen[4])
    },
  )

  // Slopes of a loss that is computed in bf16 are lost in its rounding.
  test.runIf(device.activations === 'f32').each([false, true])(
    'gives the whole adapter the slopes of the loss, rescale %s',
    (rescale) => {
      expectSlopes(rotate(device, { rescale }).trainer, batch)
    },
  )

  test('multiplies what is kept by one over its share, and nothing else', () => {
    const [plain, scaled] = [rotate(device), rotate(device, { rescale: true, hold: 'resident' })]
    for (const { rotation } of [plain, scaled]) rotation.before(0)
    const [before, after] = [plain, scaled].map(({ model }) => linears(model))
    for (const projection of projectionNames) {
      const share = { o: 64 / before!.get(moduleOf(1, 'o'))!.weight.shape[1]!, down: 176 / 61 }[projection as 'o'] ?? 1
      const [a, b] = [before!, after!].map((all) => all.get(moduleOf(1, projection))!)
      const [from, to] = [a!, b!].map(({ weight }) => toArray(weight as Tensor))
      to!.forEach((value, i) => {
        expect(value).toBeCloseTo(share * from![i]!, device.activations === 'f32' ? 5 : 1)
      })
      expect(b!.lora!.scale / a!.lora!.scale).toBeCloseTo(share, 6)
      expect(after!.get(moduleOf(0, projection))!.lora!.scale).toBe(a!.lora!.scale)
    }
  })

  test('trains all of the adapter that any slice has, and no more', () => {
    const { trainer, rotation } = rotate(device, { every: 1 })
    const name = `${moduleOf(1, 'gate')}.lora_B`
    const start = toArray(rotation.parameters.get(name).value)
    const losses = [0, 1, 2, 3].map(() => trainStep(trainer, batch, 1e-2).loss)
    expect(losses.at(-1)).toBeLessThan(losses[0]!)
    const changed = new Set(
      Array.from(toArray(rotation.parameters.get(name).value).entries(), ([i, value]) =>
        value === start[i] ? -1 : Math.floor(i / 4),
      ),
    )
    changed.delete(-1)
    const { channels } = loramKept[0]!
    const one = keptIndices('gate', loramKept[0]!, loramPlan.source).indices.length
    expect(one).toBe(channels.length)
    expect(changed.size).toBeGreaterThan(one)
    expect(changed.size).toBeLessThan(176)
    for (const channel of core[0]!.channels) expect(changed.has(channel)).toBe(true)
  })
})
