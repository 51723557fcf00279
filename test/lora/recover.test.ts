import { expect, test } from 'vitest'
import { readAdapter } from '../../src/formats/peft.ts'
import { generateDefaults, generateTokens } from '../../src/infer/generate.ts'
import type { Adapter, Matrix } from '../../src/lora/adapter.ts'
import { attachAdapter } from '../../src/lora/attach.ts'
import { recoverAdapter } from '../../src/lora/recover.ts'
import { bestScale, type Factors, factorsOf, scaleAdapter } from '../../src/lora/scale.ts'
import { parseModule } from '../../src/model/model.ts'
import { keptIndices } from '../../src/prune/plan.ts'
import { expectError } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectLogits, forwardLogits, goldenBatch, loadDirectory } from '../model/support.ts'
import { onEveryDevice } from '../ops/support.ts'
import { loram, loramPlan } from '../prune/loram.ts'

const pruned = readAdapter(goldenPath('loram', 'adapter-pruned'))
const recovered = recoverAdapter(pruned, loramPlan)

test('recovers the golden adapter, bit for bit', () => {
  expect(recovered.modules).toEqual(readAdapter(goldenPath('loram', 'adapter-recovered')).modules)
  expect(recovered.baseModel).toBe('large')
})

test('does not change the adapter that it is given', () => {
  expect(pruned).toEqual(readAdapter(goldenPath('loram', 'adapter-pruned')))
})

test.each(['zero', 'normal'] as const)(
  'cut again, an adapter recovered with fill %s is the pruned one, bit for bit',
  (fill) => {
    expect(slice(recoverAdapter(pruned, loramPlan, fill)).modules).toEqual(pruned.modules)
  },
)

test('where nothing was cut, recovery changes nothing', () => {
  const everything = [1, 2].map((layer) => ({ layer, channels: range(176), kvHeads: range(4) }))
  expect(recoverAdapter(recovered, { ...loramPlan, kept: everything })).toEqual(recovered)
})

test('a scaled update is its factor times the update; the adapter that is given stays', () => {
  const scaled = scaleAdapter(recovered, (module) => (module.includes('mlp') ? 0.5 : 1))
  for (const [name, { a, b }] of recovered.modules) {
    const data = name.includes('mlp') ? b.data.map((value) => value / 2) : b.data
    expect(scaled.modules.get(name)).toEqual({ a, b: { ...b, data } })
  }
  expect(scaleAdapter(recovered, () => 1)).toEqual(recovered)
})

test.each([
  [0.5, 0.5, 0.5, 0.5, 8],
  [0.4, 0.8, 0.5, 0.75, 8],
  [0.8, 0.6, 0.75, 0.5, 8],
  [3, 3, 1.25, 1.25, 8],
  [-1, -1, 0.25, 0.25, 6],
])(
  'for a loss with its minimum at %d for attention and %d for the MLP, takes %d and %d',
  (attention, mlp, wantAttention, wantMlp, trials) => {
    const tried: Factors[] = []
    const lossAt = (scale: Factors) => (scale.attention - attention) ** 2 + (scale.mlp - mlp) ** 2
    const { scale, loss } = bestScale((factors) => {
      tried.push(factors)
      return lossAt(factors)
    })
    expect(scale).toEqual({ attention: wantAttention, mlp: wantMlp })
    expect(loss).toBe(lossAt(scale))
    expect(tried).toHaveLength(trials)
  },
)

test('factors tell attention from the others', () => {
  const factorOf = factorsOf({ attention: 0.5, mlp: 0.75 })
  const modules = ['model.layers.3.self_attn.o_proj', 'model.layers.3.mlp.down_proj', 'lm_head']
  expect(modules.map(factorOf)).toEqual([0.5, 0.75, 0.75])
})

test('fill normal draws the cut columns of A for o and down, and nothing else', () => {
  const filled = recoverAdapter(pruned, loramPlan, 'normal')
  const drawn: number[] = []
  for (const [name, module] of recovered.modules) {
    const got = filled.modules.get(name)!
    expect(got.b, name).toEqual(module.b)
    const place = parseModule(name)
    const kept = place && loramPlan.kept.find(({ layer }) => layer === place.layer)
    const cut = kept && keptIndices(place.projection, kept, loramPlan.source)
    if (cut?.side !== 'in') {
      expect(got.a, name).toEqual(module.a)
      continue
    }
    const columns = module.a.shape[1]
    drawn.push(...got.a.data.filter((_, i) => !cut.indices.includes(i % columns)))
  }
  // 2 layers, rank 4, 115 of 176 channels and 32 of 64 columns of heads
  const count = 2 * 4 * (115 + 32)
  expect(drawn).toHaveLength(count)
  // All different: o and down of a layer, and the layers, draw from streams of their own.
  expect(new Set(drawn).size).toBe(count)
  const variance = drawn.reduce((sum, x) => sum + x * x, 0) / count
  // (1/8)^2, within 4.5 standard deviations of a variance estimated from `count` normal numbers
  expect(Math.abs(variance * 64 - 1)).toBeLessThan(4.5 * Math.sqrt(2 / count))
})

test('refuses an adapter that was trained on another pruned model', () => {
  const fewer = loramPlan.kept.map((kept) => ({ ...kept, channels: kept.channels.slice(1) }))
  expectError(() => recoverAdapter(pruned, { ...loramPlan, kept: fewer }), 'E_PLAN', {
    tensor: 'model.layers.1.mlp.down_proj',
    expected: '60 of 176 columns, which pruning.json keeps',
    found: '61',
  })
  expectError(() => recoverAdapter(recovered, loramPlan), 'E_PLAN', { found: '176' })
})

onEveryDevice('the large model', (device) => {
  const large = () => loadDirectory(goldenPath('loram', 'large'), device)
  const batch = goldenBatch(loram)

  test('refuses the adapter before recovery, and says what to do', () => {
    expectError(() => attachAdapter(large(), pruned), 'E_ADAPTER_BASE', {
      tensor: expect.stringContaining('model.layers.1.'),
      remedy: expect.stringContaining('loram recover'),
    })
  })

  test('refuses an adapter for a layer that it has not', () => {
    const module = recovered.modules.get('model.layers.0.mlp.up_proj')!
    const foreign = { ...recovered, modules: new Map([['model.layers.4.mlp.up_proj', module]]) }
    expectError(() => attachAdapter(large(), foreign), 'E_ADAPTER_BASE', { tensor: 'model.layers.4.mlp.up_proj' })
  })

  test('computes the golden logits and tokens with the recovered adapter', () => {
    const model = large()
    expectLogits(model, batch, loram('logits.large').data)
    attachAdapter(model, recovered)
    expectLogits(model, batch, loram('logits.large_recovered').data)
    const sequence = Array.from(loram('greedy.large_recovered').ints)
    const options = { ...generateDefaults, maxNewTokens: sequence.length - 6 }
    const endless = { ...model, config: { ...model.config, eosTokenIds: [] } }
    expect(Array.from(generateTokens(endless, sequence.slice(0, 6), options))).toEqual(sequence.slice(6))
  })

  test('computes the same bits as before with an adapter whose B is zero', () => {
    const model = large()
    const before = forwardLogits(model, batch)
    const zeroB = Array.from(pruned.modules, ([name, { a, b }]) => [name, { a, b: zerosLike(b) }] as const)
    attachAdapter(model, recoverAdapter({ ...pruned, modules: new Map(zeroB) }, loramPlan))
    expect(forwardLogits(model, batch)).toEqual(before)
  })
})

const range = (length: number) => Array.from({ length }, (_, i) => i)
const zerosLike = ({ shape, data }: Matrix): Matrix => ({ shape, data: new Float32Array(data.length) })

/** What the pruned model has of an adapter of the large one. */
function slice(adapter: Adapter): Adapter {
  const modules = Array.from(adapter.modules, ([name, { a, b }]) => {
    const place = parseModule(name)
    const kept = place && loramPlan.kept.find(({ layer }) => layer === place.layer)
    if (!kept) return [name, { a, b }] as const
    const { side, indices } = keptIndices(place.projection, kept, loramPlan.source)
    return [name, side === 'out' ? { a, b: pick(b, indices, 0) } : { a: pick(a, indices, 1), b }] as const
  })
  return { ...adapter, modules: new Map(modules) }
}

/** Rows (`axis` 0) or columns (1) `indices` of a matrix. */
function pick({ shape: [rows, columns], data }: Matrix, indices: Int32Array, axis: 0 | 1): Matrix {
  const list = Array.from(indices)
  if (axis === 0) {
    const picked = list.flatMap((row) => Array.from(data.subarray(row * columns, (row + 1) * columns)))
    return { shape: [list.length, columns], data: Float32Array.from(picked) }
  }
  const picked = range(rows).flatMap((row) => list.map((column) => data[row * columns + column]!))
  return { shape: [rows, list.length], data: Float32Array.from(picked) }
}
