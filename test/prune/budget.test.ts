import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MemoryError } from '../../src/errors.ts'
import { loraDefaults } from '../../src/lora/attach.ts'
import { planWithin } from '../../src/memory/budget.ts'
import { countParameters } from '../../src/memory/planner.ts'
import { chooseWithin, cutRatio, ratioWithin } from '../../src/prune/budget.ts'
import type { Allocation } from '../../src/prune/importance.ts'
import { prunedConfig, uniformConfig } from '../../src/prune/plan.ts'
import { randomImportance } from '../../src/prune/random.ts'
import { cpu } from '../../src/tensor/device.ts'
import { expectError } from '../formats/scratch.ts'
import { configOf } from './paperModels.ts'

const seventy = configOf('LLaMA-3.1-70B')
const small = { ...seventy, hiddenSize: 64, intermediateSize: 176, numAttentionHeads: 8, numKeyValueHeads: 4 }
const tiny = { ...small, headDim: 8, vocabSize: 160, numHiddenLayers: 5 }
const layer = { intermediateSize: 176, numAttentionHeads: 8, numKeyValueHeads: 4 }
const config = { ...tiny, layers: Array.from({ length: 5 }, () => layer) }
const layers: [number, number] = [1, 4]
const channel = 3 * config.hiddenSize
const random = (seed: number) => (index: number) => randomImportance(config, index, seed)

describe('a number of parameters', () => {
  test("is met to a channel, at the paper's figure for LLaMA-3.1-70B", () => {
    const kept = chooseWithin(seventy, 17.85e9, [4, 78], 'uniform', (i) => randomImportance(seventy, i, 1))
    const count = countParameters(prunedConfig(seventy, kept))
    expect(17.85e9 - count).toBeGreaterThanOrEqual(0)
    expect(17.85e9 - count).toBeLessThan(3 * seventy.hiddenSize)
    const widths = kept.map(({ channels }) => channels.length)
    expect(Math.max(...widths) - Math.min(...widths)).toBeLessThanOrEqual(1)
    expect(new Set(kept.map(({ kvHeads }) => kvHeads.length))).toEqual(new Set([2]))
  })

  test('is met to a channel, whatever it is, and every layer keeps something', () => {
    const [least, whole] = [countParameters(uniformConfig(config, 0.99, [0, 0])), countParameters(config)]
    const floor = least - 3 * (175 * channel + 3 * 4 * 8 * 64 * 1.5)
    fc.assert(
      fc.property(
        fc.integer({ min: Math.ceil(floor), max: whole - 1 }),
        fc.constantFrom<Allocation>('uniform', 'importance'),
        fc.nat(),
        (target, allocation, seed) => {
          const kept = chooseWithin(config, target, layers, allocation, random(seed))
          const left = target - countParameters(prunedConfig(config, kept))
          expect(left).toBeGreaterThanOrEqual(0)
          const isFull = kept.every(({ channels }) => channels.length === config.intermediateSize)
          if (!isFull) expect(left).toBeLessThan(channel)
          for (const { channels, kvHeads } of kept) expect(Math.min(channels.length, kvHeads.length)).toBeGreaterThan(0)
        },
      ),
    )
  })

  test('by importance goes to the layers that matter', () => {
    const scale = [0, 1, 100, 1, 0]
    const importanceOf = (index: number) => {
      const { channels, kvHeads } = randomImportance(config, index, 3)
      return {
        channels: Array.from(channels, (score) => scale[index]! * (score + 1)),
        kvHeads: Array.from(kvHeads, (score) => scale[index]! * (score + 1)),
      }
    }
    const target = countParameters(uniformConfig(config, 0.5, layers))
    const kept = chooseWithin(config, target, layers, 'importance', importanceOf)
    expect(kept[1]!.channels).toHaveLength(config.intermediateSize)
    expect(kept[0]!.channels.length + kept[2]!.channels.length).toBeLessThan(config.intermediateSize)
    expect(cutRatio(config, kept)).toBeCloseTo(0.5, 2)
  })

  test.each([1, countParameters(config), 1e12])('%d is refused', (target) => {
    const choose = () => chooseWithin(config, target, layers, 'uniform', random(1))
    expectError(choose, 'E_CONFIG', { field: 'prune.targetParams', found: String(target) })
  })
})

describe('a memory budget', () => {
  const shape = {
    ...({ quantize: 'nf4', quantizeTables: false, microBatchSize: 1, sequenceLength: 64 } as const),
    lora: loraDefaults,
  }
  const choice = { recompute: 'full' } as const
  const bytesAt = (ratio: number) =>
    planWithin(uniformConfig(config, ratio, layers), shape, choice, Number.POSITIVE_INFINITY, cpu).bytes.total
  const ratioFor = (bytes: number) => ratioWithin(config, layers, { shape, choice, bytes }, cpu)

  test('picks the smallest ratio that fits', () => {
    expect(ratioFor(bytesAt(0))).toBe(0)
    expect(ratioFor(bytesAt(0.4))).toBe(0.4)
    const ratio = ratioFor(bytesAt(0.4) - 1)
    expect(ratio).toBeGreaterThan(0.4)
    expect(bytesAt(ratio)).toBeLessThan(bytesAt(0.4))
  })

  test('has the tables in NF4 before it prunes more', () => {
    const budget = { shape: { ...shape, quantizeTables: undefined }, choice, bytes: bytesAt(0.4) }
    expect(ratioWithin(config, layers, budget, cpu)).toBeLessThan(0.4)
  })

  test('too small for any is refused', () => {
    expect(() => ratioFor(1000)).toThrow(MemoryError)
  })
})
