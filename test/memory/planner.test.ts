import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { describe, expect, test } from 'vitest'
import { readJsonObject } from '../../src/formats/json.ts'
import { evaluateLoss } from '../../src/infer/perplexity.ts'
import { addAdapter, loraDefaults, targetModules, withoutPairs } from '../../src/lora/attach.ts'
import { planWithin } from '../../src/memory/budget.ts'
import { formatBytes } from '../../src/memory/bytes.ts'
import { arenaBytes, fullMicroBatch, metaModel } from '../../src/memory/measure.ts'
import { modelBytes, planTraining, type TrainingShape, trainingPlanner } from '../../src/memory/planner.ts'
import { parseConfig } from '../../src/model/config.ts'
import { Arena } from '../../src/tensor/arena.ts'
import { cpu, metaDevice } from '../../src/tensor/device.ts'
import type { Device } from '../../src/tensor/tensor.ts'
import { offloadMemory } from '../../src/train/offload.ts'
import {
  type RecomputeChoice,
  type RecomputePlan,
  recomputePlans,
  recomputes,
  uniform,
} from '../../src/train/recompute.ts'
import { trainStep } from '../../src/train/step.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { expectError } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { loadDirectory } from '../model/support.ts'
import { onEveryDevice } from '../ops/support.ts'
import { configOf, prunedConfigOf } from '../prune/paperModels.ts'
import { batchOf, trainerOf } from '../train/support.ts'

const lora = { ...loraDefaults, dropout: 0 }
const qlora = { quantize: 'nf4', lora, microBatchSize: 2, sequenceLength: 31 } as const
const cases: [string, string[], TrainingShape, Partial<RecomputePlan>][] = [
  [
    'LoRA on everything',
    ['models', 'llama3'],
    { quantize: 'none', lora: { ...lora, targets: targetModules }, microBatchSize: 2, sequenceLength: 33 },
    { none: 2 },
  ],
  [
    'LoRA with full recompute and tied embeddings',
    ['models', 'llama3-tied'],
    { quantize: 'none', lora, microBatchSize: 3, sequenceLength: 20 },
    { full: 2 },
  ],
  [
    'QLoRA on a model with biases',
    ['models', 'qwen2'],
    { quantize: 'nf4', lora, microBatchSize: 2, sequenceLength: 20 },
    { cheap: 1, none: 1 },
  ],
  [
    'LoRA on a model with norms of heads',
    ['models', 'qwen3'],
    { quantize: 'none', lora, microBatchSize: 2, sequenceLength: 20 },
    { full: 1, cheap: 1 },
  ],
  [
    'QLoRA on a pruned model, with dropout, on some modules',
    ['loram', 'pruned'],
    {
      quantize: 'nf4',
      lora: { ...lora, rank: 3, dropout: 0.1, targets: ['q_proj', 'down_proj'] },
      microBatchSize: 1,
      sequenceLength: 57,
    },
    { full: 2, cheap: 1, none: 1, offloaded: 1 },
  ],
  ...(['llama3', 'llama3-tied'] as const).map((name): (typeof cases)[number] => [
    `on ${name} with its tables in NF4`,
    ['models', name],
    { quantize: 'nf4', quantizeTables: true, lora, microBatchSize: 2, sequenceLength: 33 },
    { none: 2 },
  ]),
  ['with predictions to preserve', ['loram', 'pruned'], { ...qlora, preserves: true }, { none: 4 }],
  ['alike for every layer', ['loram', 'pruned'], qlora, { cheap: 4 }],
  ['with all that can be offloaded', ['loram', 'pruned'], qlora, { full: 4, offloaded: 3 }],
]

onEveryDevice('the memory plan', (device) => {
  describe.each(cases)('of %s', (_name, folder, shape, counts) => {
    const recompute = { ...uniform('none', 0), ...counts }
    const model = loadDirectory(goldenPath(...folder), device, shape.quantize, shape.quantizeTables)
    const plan = planTraining(model.config, shape, recompute, device)
    const micro = fullMicroBatch(shape.microBatchSize * shape.sequenceLength)
    const parameters = addAdapter(model, shape.lora, 0)
    const host = offloadMemory(device, model.config, recompute, micro.ids.length)
    const step = (bytes: number, ...micros: (typeof micro)[]) => {
      const arena = new Arena(device, bytes)
      const dropout = { rate: shape.lora.dropout, seed: 0 }
      const teacher = { model: withoutPairs(model), weight: 1, temperature: 1 }
      const preserve = shape.preserves ? { teacher, weight: 1, batchAt: () => batchOf(micro) } : undefined
      trainStep(trainerOf(model, parameters, { arena, host, recompute, dropout, preserve }), batchOf(...micros), 0)
      return arena
    }

    test('is what a step takes of the arena, to the byte', () => {
      const arena = step(plan.bytes.activations, micro)
      expect(arena.peak).toBe(plan.bytes.activations)
      expect(arena.mark()).toBe(0)
    })

    test('holds for a step of several micro-batches, which take it in turn', () => {
      expect(step(plan.bytes.activations, micro, micro, micro).peak).toBe(plan.bytes.activations)
    })

    test('is not a byte too large', () => {
      expectError(() => step(plan.bytes.activations - 1, micro), 'E_MEMORY')
    })

    test('has the bytes of weights and parameters as they are held', () => {
      const adapter = parameters.bytes + 2 * parameters.values.bytes
      expect(plan.bytes).toMatchObject({ ...modelBytes(model), adapter, host: host?.bytes ?? 0 })
      expect(plan.parameters.adapter).toBe(parameters.count)
    })
  })

  test('of an evaluation is what it takes, to the byte', () => {
    const model = loadDirectory(goldenPath('models', 'llama2'), device)
    const micro = fullMicroBatch(40)
    const evaluate = (of: typeof model, arena: Arena) => evaluateLoss(of, arena, [micro], neverAborted)
    const bytes = arenaBytes(device, (arena) => evaluate(metaModel(model.config, { quantize: 'none' }, device), arena))
    const arena = new Arena(device, bytes)
    evaluate(model, arena)
    expect(arena.peak).toBe(bytes)
  })
})

describe('scratch on the GPU', () => {
  const config = configOf('LLaMA-2-13B')
  const { hiddenSize, intermediateSize, numAttentionHeads } = config
  const scratch = (sequenceLength: number, rank: number, quantize: 'nf4' | 'none' = 'nf4') => {
    const shape = { quantize, lora: { ...lora, rank }, microBatchSize: 1, sequenceLength }
    return planTraining(config, shape, uniform('full', 40), metaDevice('cuda')).bytes.scratch
  }
  const stripes = intermediateSize / 256

  test.each([
    ['whole tiles of the largest matrix in bf16, of 128 MiB', scratch(2048, 16), 2 * hiddenSize * 51 * 256],
    ['partial sums of a pair, where sequences are long', scratch(65536, 8), 4 * 65536 * 16 * stripes],
    ['twice that for ranks above 16', scratch(65536, 17), 4 * 65536 * 32 * stripes],
    ["attention's of every row, where there is neither", scratch(32768, 64, 'none'), 16 * 32768 * numAttentionHeads],
  ])('is %s', (_name, planned, expected) => expect(planned).toBe(expected))
})

describe('a budget', () => {
  const device = metaDevice('cuda')
  const auto = { recompute: 'auto' } as const
  const shape: TrainingShape = { quantize: 'nf4', lora, microBatchSize: 1, sequenceLength: 512 }

  test.each(['LLaMA-2-13B', 'LLaMA-3.1-70B'] as const)(
    'is filled with the plan of %s that recomputes least',
    (name) => {
      const config = prunedConfigOf(name, 0.85)
      const planOf = trainingPlanner(config, shape, device)
      const choice = { recompute: 'auto', offload: false } as const
      const plans = recomputePlans(choice, config.layers.length, device)
      const some = plans.filter((_, i) => i % 8 === 0 || i === plans.length - 1)
      const bytes = some.map((plan) => planOf(plan).bytes.total)
      expect(bytes.toSorted((a, b) => b - a)).toEqual(bytes)
      const middle = bytes[Math.floor(bytes.length / 2)]!
      const found = planWithin(config, shape, choice, middle, device)
      expect(found.bytes.total).toBeLessThanOrEqual(middle)
      const before = plans.findIndex((plan) => isDeepStrictEqual(plan, found.recompute)) - 1
      expect(planOf(plans[before]!).bytes.total).toBeGreaterThan(middle)
    },
  )

  test.each([
    ['LLaMA-2-13B', configOf('LLaMA-2-13B')],
    ['LLaMA-3.1-70B, pruned', prunedConfigOf('LLaMA-3.1-70B', 0.85)],
  ] as const)(
    'in which all layers of %s recompute lets some offload their outputs instead, where that may be',
    (_name, config) => {
      const full = planTraining(config, shape, uniform('full', config.layers.length), device)
      const planned = (choice: RecomputeChoice) => planWithin(config, shape, choice, full.bytes.total, device)
      const found = planned(auto)
      expect(found.recompute).toMatchObject({ none: 0, cheap: 0, full: config.layers.length })
      expect(found.recompute.offloadedOutputs).toBeGreaterThan(config.layers.length / 4)
      expect(found.bytes.total).toBeLessThanOrEqual(full.bytes.total)
      const { offloaded, offloadedOutputs } = found.recompute
      const [widths] = config.layers.slice(10)
      const outputs = (widths!.numAttentionHeads + 2 * widths!.numKeyValueHeads) * config.headDim
      const bytes = 2 * 512 * (offloaded * config.hiddenSize + (offloadedOutputs - 2) * outputs)
      expect(found.bytes.host).toBeGreaterThan(bytes)
      for (const choice of [{ ...auto, offload: false }, { recompute: 'full' }] as const) {
        expect(planned(choice).recompute).toEqual(full.recompute)
      }
    },
  )

  test.each(['cpu', 'cuda'] as const)('has plans on %s that take less and less', (name) => {
    const folder = goldenPath('loram', 'large')
    const config = parseConfig(readJsonObject(path.join(folder, 'config.json')), folder)
    const planOf = trainingPlanner(config, { ...shape, sequenceLength: 48 }, metaDevice(name))
    const plans = recomputePlans(auto, config.layers.length, metaDevice(name))
    const bytes = plans.map((plan) => planOf(plan).bytes.total)
    expect(bytes.toSorted((a, b) => b - a)).toEqual(bytes)
  })

  test('of any size recomputes nothing that is not asked for', () => {
    const config = prunedConfigOf('LLaMA-2-13B', 0.65)
    for (const recompute of recomputes) {
      const plan = planWithin(config, shape, { recompute }, Number.POSITIVE_INFINITY, device)
      expect(plan.recompute).toEqual(uniform(recompute, 40))
    }
    expect(planWithin(config, shape, auto, Number.POSITIVE_INFINITY, device).recompute).toEqual(uniform('none', 40))
  })

  test('that nothing fits is refused with the figures, and with what would save most', () => {
    const config = prunedConfigOf('LLaMA-2-13B', 0.65)
    const large = { ...shape, quantizeTables: false, microBatchSize: 8, sequenceLength: 2048 }
    const least = planTraining(config, large, { ...uniform('full', 40), offloaded: 39 }, device)
    const halved = planTraining(config, { ...large, microBatchSize: 4 }, least.recompute, device)
    const saved = formatBytes(least.bytes.total - halved.bytes.total)
    expectError(() => planWithin(config, large, auto, least.bytes.total - 1, device), 'E_MEMORY', {
      field: 'memory',
      found: expect.stringContaining(
        `${formatBytes(least.bytes.total)} with recompute full for 40 layers (39 offloaded)`,
      ),
      remedy: expect.stringMatching(`microBatchSize 4 saves ${saved}; sequenceLength 1024 saves ${saved}; .* saves`),
    })
    expectError(() => planWithin(config, large, { recompute: 'none' }, least.bytes.total, device), 'E_MEMORY', {
      remedy: expect.stringMatching(/^offload true saves .*; recompute full saves .*; microBatchSize 4 saves/),
    })
  })

  test('takes embedding and head to NF4 only where recomputation does not help enough, or where told to', () => {
    const config = prunedConfigOf('LLaMA-2-13B', 0.65)
    const planFor = (bytes: number, change: Partial<TrainingShape> = {}) =>
      planWithin(config, { ...shape, ...change }, auto, bytes, device)
    const least = (change: Partial<TrainingShape>) => {
      const recompute = recomputePlans(auto, 40, device).at(-1)!
      return planTraining(config, { ...shape, ...change }, recompute, device)
    }
    const [plain, quantized] = [least({ quantizeTables: false }), least({ quantizeTables: true })]
    expect(quantized.bytes.tables / plain.bytes.tables).toBeCloseTo(4.127 / 16, 4)
    expect(planFor(plain.bytes.total)).toEqual(plain)
    expect(planFor(plain.bytes.total - 1)).toMatchObject({ quantizeTables: true })
    expect(planFor(quantized.bytes.total)).toEqual(quantized)
    expect(planFor(Number.POSITIVE_INFINITY, { quantizeTables: true }).recompute).toEqual(uniform('none', 40))
    expectError(() => planFor(plain.bytes.total - 1, { quantizeTables: false }), 'E_MEMORY')
    expectError(() => planFor(least({ quantize: 'none' }).bytes.total - 1, { quantize: 'none' }), 'E_MEMORY')
  })
})

test.each([
  [16, true],
  [128, true],
  [12, false],
  [136, false],
])('a head of %i values fits the GPU: %s', (headDim, fits) => {
  const config = { ...prunedConfigOf('LLaMA-2-13B', 0.65), headDim }
  const build = (device: Device) => metaModel(config, { quantize: 'none' }, device)
  expect(build(cpu).constants.headDim).toBe(headDim)
  if (fits) expect(build(metaDevice('cuda')).constants.headDim).toBe(headDim)
  else expectError(() => build(metaDevice('cuda')), 'E_MODEL', { field: 'head_dim', found: String(headDim) })
})

// Zhang et al. 2025, arXiv 2502.13533, tables 4 and 5
describe('the paper', () => {
  const shape = { lora, microBatchSize: 1, sequenceLength: 1 }

  test.each([
    ['LLaMA-2-13B', 0.65, 'none', '2.17'],
    ['LLaMA-2-70B', 0.65, 'none', '2.45'],
    ['LLaMA-2-70B', 0.75, 'nf4', '12.84'],
    ['LLaMA-2-70B', 0.85, 'nf4', '16.95'],
    ['LLaMA-2-70B', 0.95, 'nf4', '28.56'],
    ['LLaMA-3.1-70B', 0.85, 'nf4', '15.81'],
  ] as const)('%s cut by %d, quantised to %s, is %s times smaller', (model, ratio, quantize, times) => {
    const { reduction } = planTraining(prunedConfigOf(model, ratio), { ...shape, quantize }, uniform('none', 80), cpu)
    expect(reduction.toFixed(2)).toBe(times)
  })

  test('LLaMA-3.1-70B cut by 0.85 takes 8.12 GB of projections in NF4 and 4.20 GB of tables in bf16', () => {
    const { bytes } = planTraining(
      prunedConfigOf('LLaMA-3.1-70B', 0.85),
      { ...shape, quantize: 'nf4' },
      uniform('none', 80),
      cpu,
    )
    expect(bytes.projections / 1e9).toBeCloseTo(8.12, 2)
    expect(bytes.tables / 1e9).toBeCloseTo(4.2, 2)
  })
})
