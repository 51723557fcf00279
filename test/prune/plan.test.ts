import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { KeptLayer } from '../../src/formats/pruningJson.ts'
import { countParameters } from '../../src/memory/planner.ts'
import { prunedWidths } from '../../src/model/config.ts'
import { type Projection, projectionNames } from '../../src/model/model.ts'
import { choose, type Dimensions, keptCounts, keptIndices, originalWidths } from '../../src/prune/plan.ts'
import { randomImportance } from '../../src/prune/random.ts'
import { expectError } from '../formats/scratch.ts'
import { configOf, paperCounts, prunedConfigOf } from './paperModels.ts'

describe('the paper', () => {
  test.each([
    ['LLaMA-2-70B', 0.65, 10035, 3],
    ['LLaMA-2-70B', 0.75, 7168, 2],
    ['LLaMA-2-70B', 0.85, 4300, 2],
    ['LLaMA-2-70B', 0.95, 1433, 1],
    ['LLaMA-2-13B', 0.65, 4838, 14],
  ] as const)('of a layer of %s, %d leaves %d channels and %d kv heads', (model, ratio, channels, kvHeads) => {
    expect(keptCounts(configOf(model), ratio)).toEqual({ channels, kvHeads })
  })

  test.each(paperCounts)('%s cut by %d goes from %d to %d parameters', (model, ratio, full, pruned) => {
    expect(countParameters(configOf(model))).toBe(full)
    expect(countParameters(prunedConfigOf(model, ratio))).toBe(pruned)
  })
})

const sizes: Dimensions = {
  hiddenSize: 64,
  intermediateSize: 176,
  numHiddenLayers: 2,
  numAttentionHeads: 8,
  numKeyValueHeads: 4,
  headDim: 8,
}

describe('a ratio', () => {
  test.each([
    [1, '0 of 176 channels, 0 of 4 heads'],
    [0.999, '0 of 176 channels, 1 of 4 heads'],
    [1.5, '-88 of 176 channels'],
    [-0.1, '193 of 176 channels'],
    [Number.NaN, 'NaN'],
  ])('of %d is refused', (ratio, found) => {
    const details = { field: 'prune.ratio', found: expect.stringContaining(found) }
    expectError(() => keptCounts(sizes, ratio), 'E_CONFIG', details)
  })

  test('that leaves channels and no head is refused', () => {
    const ungrouped = { ...sizes, numKeyValueHeads: 8 }
    expect(keptCounts(ungrouped, 0.87)).toEqual({ channels: 22, kvHeads: 1 })
    expectError(() => keptCounts(ungrouped, 0.9), 'E_CONFIG', { found: '0.9: 17 of 176 channels, 0 of 8 heads' })
  })

  test('of 0 keeps everything', () => {
    expect(keptCounts(sizes, 0)).toEqual({ channels: 176, kvHeads: 4 })
  })
})

describe('what is kept', () => {
  /** Sizes of models with and without grouped heads, and scores of one layer that tie here and there. */
  const layers = fc
    .record({
      channels: fc.integer({ min: 1, max: 40 }),
      kvHeads: fc.integer({ min: 1, max: 8 }),
      group: fc.constantFrom(1, 2, 4),
    })
    .chain(({ channels, kvHeads, group }) => {
      const scores = (length: number) =>
        fc.array(fc.integer({ min: 0, max: 9 }), { minLength: length, maxLength: length })
      const dimensions = {
        ...sizes,
        intermediateSize: channels,
        numKeyValueHeads: kvHeads,
        numAttentionHeads: group * kvHeads,
      }
      return fc.record({
        dimensions: fc.constant(dimensions),
        ratio: fc.double({ min: 0, max: 1, noNaN: true }).filter((ratio) => leavesSomething(dimensions, ratio)),
        importance: fc.record({ channels: scores(channels), kvHeads: scores(kvHeads) }),
      })
    })
  const leavesSomething = (dimensions: Dimensions, ratio: number) => {
    const widths = prunedWidths(dimensions, ratio, ratio)
    return widths.intermediateSize > 0 && widths.numKeyValueHeads > 0
  }

  test('is as many as the ratio says, ascending, in range, and nothing that matters more was cut', () => {
    fc.assert(
      fc.property(layers, ({ dimensions, ratio, importance }) => {
        const [kept] = choose(dimensions, ratio, [1, 2], () => importance)
        const counts = keptCounts(dimensions, ratio)
        expect(kept!.layer).toBe(1)
        for (const part of ['channels', 'kvHeads'] as const) {
          const scores = importance[part]
          expect(kept![part]).toHaveLength(counts[part])
          expectAscending(kept![part], scores.length)
          const cut = scores.filter((_, i) => !kept![part].includes(i))
          expect(Math.max(0, ...cut)).toBeLessThanOrEqual(Math.min(...kept![part].map((i) => scores[i]!)))
        }
      }),
    )
  })

  test('are the later of equals', () => {
    const equal = { channels: new Float32Array(176), kvHeads: new Float32Array(4) }
    const [{ channels, kvHeads }] = choose(sizes, 0.5, [0, 1], () => equal) as [KeptLayer]
    expect(channels).toEqual(Array.from({ length: 88 }, (_, i) => 88 + i))
    expect(kvHeads).toEqual([2, 3])
  })

  test('are rows and columns of whole heads: a kv head with all its query heads', () => {
    fc.assert(
      fc.property(layers, ({ dimensions, ratio, importance }) => {
        const [kept] = choose(dimensions, ratio, [0, 1], () => importance) as [KeptLayer]
        const widths = originalWidths(dimensions)
        const { headDim, numAttentionHeads, numKeyValueHeads } = dimensions
        const heads = (projection: Projection) =>
          new Set(Array.from(keptIndices(projection, kept, dimensions).indices, (i) => Math.floor(i / headDim)))
        for (const projection of projectionNames) {
          const { side, indices } = keptIndices(projection, kept, dimensions)
          expect(side).toBe(projection === 'o' || projection === 'down' ? 'in' : 'out')
          expectAscending(indices, widths[projection])
        }
        expect(Array.from(heads('k'))).toEqual(kept.kvHeads)
        expect(heads('v')).toEqual(heads('k'))
        const group = numAttentionHeads / numKeyValueHeads
        const users = Array.from({ length: numAttentionHeads }, (_, h) => h).filter((h) =>
          kept.kvHeads.includes(Math.floor(h / group)),
        )
        expect(Array.from(heads('q'))).toEqual(users)
        expect(heads('o')).toEqual(heads('q'))
      }),
    )
  })
})

describe('random importance', () => {
  test('depends on seed and layer alone', () => {
    expect(randomImportance(sizes, 1, 7)).toEqual(randomImportance(sizes, 1, 7))
    expect(randomImportance(sizes, 2, 7)).not.toEqual(randomImportance(sizes, 1, 7))
    expect(randomImportance(sizes, 1, 8)).not.toEqual(randomImportance(sizes, 1, 7))
  })

  test('keeps every head as often as any other', () => {
    const seeds = 2000
    const timesKept = [0, 0, 0, 0]
    for (let seed = 0; seed < seeds; seed++) {
      const [{ kvHeads }] = choose(sizes, 0.5, [0, 1], (layer) => randomImportance(sizes, layer, seed)) as [KeptLayer]
      for (const head of kvHeads) timesKept[head]!++
    }
    // Binomial with p = 1/2: 4.5 standard deviations, which one run in 10^5 exceeds, and the seeds are fixed.
    for (const times of timesKept) expect(Math.abs(times - seeds / 2)).toBeLessThan(4.5 * Math.sqrt(seeds / 4))
  })
})

function expectAscending(indices: ArrayLike<number>, size: number): void {
  const list = Array.from(indices)
  expect(list).toEqual(Array.from(new Set(list)).sort((a, b) => a - b))
  expect(list.every((i) => i >= 0 && i < size)).toBe(true)
}
