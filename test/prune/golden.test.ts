import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Example } from '../../src/data/encode.ts'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import { arenaFor } from '../../src/memory/measure.ts'
import { linears, type Projection } from '../../src/model/model.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { gatherColumns, gatherRows, scatterColumns, scatterRows } from '../../src/native/gather.ts'
import { layerImportance } from '../../src/prune/importance.ts'
import { choose } from '../../src/prune/plan.ts'
import { sliceWeight, writePruned } from '../../src/prune/slice.ts'
import { structuredImportance } from '../../src/prune/structured.ts'
import { taylorImportance } from '../../src/prune/taylor.ts'
import { type Tensor, tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectGolden, expectLogits, goldenBatch, loadDirectory } from '../model/support.ts'
import { expectWithin, onEveryDevice, random, toArray } from '../ops/support.ts'
import { calibration, calibrationText, loram, loramLayers, loramPlan } from './loram.ts'

onEveryDevice('Taylor importance, against LLM-Pruner', (device) => {
  const sizes = loramPlan.source
  const model = loadDirectory(goldenPath('loram', 'large'), device)
  const measure = (grouping: 'aligned' | 'llm-pruner') => {
    const work = [calibration, sizes, loramLayers, { grouping }, neverAborted] as const
    const arena = arenaFor(model, (twin, meta) => taylorImportance(twin, meta, ...work))
    return taylorImportance(model, arena, ...work)
  }

  test.each([
    ['aligned', 'kv_importance_aligned', 'kept_kv_heads'],
    ['llm-pruner', 'kv_importance_reference', 'kept_kv_heads_reference'],
  ] as const)('scores and choice, query heads grouped as %s', (grouping, kvImportance, keptHeads) => {
    const scores = measure(grouping)
    const kept = choose(sizes, 0.65, loramLayers, (layer) => scores.get(layer)!)
    expect(Array.from(scores.keys()).sort()).toEqual([1, 2])
    for (const { layer, channels, kvHeads } of kept) {
      expectGolden(scores.get(layer)!.channels, loram(`layer${layer}.mlp_importance`).data)
      expectGolden(scores.get(layer)!.kvHeads, loram(`layer${layer}.${kvImportance}`).data)
      expect(channels).toEqual(Array.from(loram(`layer${layer}.kept_mlp`).ints))
      expect(kvHeads).toEqual(Array.from(loram(`layer${layer}.${keptHeads}`).ints))
    }
  })

  test('of second order is the sum over examples of the squares of their gradients', () => {
    const source = openModelFolder(goldenPath('loram', 'large'))
    const settings = { grouping: 'aligned', layers: loramLayers, signal: neverAborted } as const
    const importanceOn = (criterion: 'taylor' | 'taylor-second', text: Example[]) =>
      structuredImportance(source, device, { ...settings, criterion }, text).get(1)!
    const text = calibrationText.slice(0, 3)
    const second = importanceOn('taylor-second', text)
    const each = text.map((example) => importanceOn('taylor-second', [example]))
    expectWithin(
      second.channels,
      Array.from(second.channels, (_, c) => each.reduce((sum, one) => sum + one.channels[c]!, 0)),
      (want) => 1e-6 * want,
    )
    // Of a structure of one weight the square of first order would be second order; of many it is at most that
    const first = importanceOn('taylor', [text[0]!])
    for (const [c, score] of Array.from(first.channels).entries()) {
      expect(each[0]!.channels[c]).toBeGreaterThan(0)
      expect(each[0]!.channels[c]).toBeLessThanOrEqual(score ** 2)
      expect(each[0]!.channels[c]! * 3 * source.config.hiddenSize).toBeGreaterThanOrEqual((1 - 1e-5) * score ** 2)
    }
  })

  test('leaves no gradient behind', () => {
    measure('aligned')
    for (const linear of linears(model).values()) expect(linear).not.toHaveProperty('grad')
  })
})

onEveryDevice('magnitude importance', (device) => {
  test('adds up the weights of each structure', () => {
    const layer = loadDirectory(goldenPath('loram', 'large'), device).layers[1]!
    const { channels, kvHeads } = layerImportance(layer, loramPlan.source, { grouping: 'aligned' })
    const sum = (projection: Projection, belongs: (row: number, column: number) => boolean) => {
      const { weight } = layer[projection]
      const columns = weight.shape[1]!
      return toArray(weight as Tensor).reduce(
        (total, w, i) => total + (belongs(Math.floor(i / columns), i % columns) ? Math.abs(w) : 0),
        0,
      )
    }
    const wantChannels = Array.from(channels, (_, c) => {
      const row = (i: number) => i === c
      return sum('gate', row) + sum('up', row) + sum('down', (_row, column) => column === c)
    })
    const wantHeads = Array.from(kvHeads, (_, h) => {
      const inHead = (size: number) => (i: number) => Math.floor(i / size) === h
      const [kv, query] = [inHead(8), inHead(16)]
      return sum('k', kv) + sum('v', kv) + sum('q', query) + sum('o', (_row, column) => query(column))
    })
    expectGolden(channels, wantChannels)
    expectGolden(kvHeads, wantHeads)
  })
})

describe('the pruned checkpoint', () => {
  const scratch = scratchFolder()
  const dir = path.join(scratch, 'pruned')
  writePruned(openCheckpoint(goldenPath('loram', 'large')), loramPlan, dir, neverAborted)

  test('holds the golden one, byte for byte', () => {
    const want = openCheckpoint(goldenPath('loram', 'pruned'))
    const got = openCheckpoint(dir)
    expect(Array.from(got.tensors.keys()).sort()).toEqual(Array.from(want.tensors.keys()).sort())
    for (const [name, { shape, dtype }] of want.tensors) {
      expect(got.tensors.get(name)).toMatchObject({ shape, dtype })
      expect(Buffer.compare(got.read(name), want.read(name)), name).toBe(0)
    }
    expect(got.pruning).toEqual(loramPlan)
  })

  onEveryDevice('computes', (device) => {
    test('the golden logits', () => {
      expectLogits(loadDirectory(dir, device), goldenBatch(loram), loram('logits.pruned').data)
    })
  })
})

onEveryDevice('slices', (device) => {
  test('leave what is not pruned as it is', () => {
    const weight = random(device, [176, 64])
    for (const name of ['model.layers.0.mlp.gate_proj.weight', 'model.norm.weight', 'lm_head.weight']) {
      expect(sliceWeight(name, weight, loramPlan)).toBe(weight)
    }
    expect(sliceWeight('model.layers.1.mlp.gate_proj.weight', weight, loramPlan).shape).toEqual([61, 64])
  })

  test('gathered and scattered back are the weight where it was kept, and zero elsewhere', () => {
    const shapes = fc.record({ rows: fc.integer({ min: 1, max: 20 }), columns: fc.integer({ min: 1, max: 20 }) })
    const cases = shapes.chain((shape) =>
      fc.record({
        shape: fc.constant(shape),
        rows: fc.subarray(
          Array.from({ length: shape.rows }, (_, i) => i),
          { minLength: 1 },
        ),
        columns: fc.subarray(
          Array.from({ length: shape.columns }, (_, i) => i),
          { minLength: 1 },
        ),
      }),
    )
    fc.assert(
      fc.property(cases, ({ shape, rows, columns }) => {
        const weight = random(device, [shape.rows, shape.columns])
        const [rowIndex, columnIndex] = [rows, columns].map((indices) => tensorFrom(device, Int32Array.from(indices)))
        const ofRows = zeros(device, weight.shape, 'f32')
        scatterRows(gatherRows(weight, rowIndex!), rowIndex!, ofRows)
        const ofColumns = zeros(device, weight.shape, 'f32')
        scatterColumns(gatherColumns(weight, columnIndex!), columnIndex!, ofColumns)
        const keeping = (kept: (row: number, column: number) => boolean) =>
          toArray(weight).map((w, i) => (kept(Math.floor(i / shape.columns), i % shape.columns) ? w : 0))
        expect(toArray(ofRows)).toEqual(keeping((row) => rows.includes(row)))
        expect(toArray(ofColumns)).toEqual(keeping((_row, column) => columns.includes(column)))
      }),
    )
  })
})
