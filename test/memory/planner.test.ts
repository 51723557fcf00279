import { describe, expect, test } from 'vitest'
import { evaluateLoss } from '../../src/infer/perplexity.ts'
import { addAdapter, loraDefaults, targetModules } from '../../src/lora/attach.ts'
import { arenaBytes, fullMicroBatch, metaModel } from '../../src/memory/measure.ts'
import { modelBytes, planTraining, planWithin, type TrainingShape } from '../../src/memory/planner.ts'
import { Arena } from '../../src/tensor/arena.ts'
import { cpu } from '../../src/tensor/device.ts'
import { trainStep } from '../../src/train/step.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { expectError } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { loadDirectory } from '../model/support.ts'
import { onEveryDevice } from '../ops/support.ts'
import { prunedConfigOf } from '../prune/paperModels.ts'
import { batchOf, trainerOf } from '../train/support.ts'

const lora = { ...loraDefaults, dropout: 0 }
const cases: [string, string[], TrainingShape, 'none' | 'full'][] = [
  [
    'LoRA on everything',
    ['models', 'llama3'],
    { quantize: 'none', lora: { ...lora, targets: targetModules }, microBatchSize: 2, sequenceLength: 33 },
    'none',
  ],
  [
    'LoRA with full recompute and tied embeddings',
    ['models', 'llama3-tied'],
    { quantize: 'none', lora, microBatchSize: 3, sequenceLength: 20 },
    'full',
  ],
  [
    'QLoRA on a model with biases',
    ['models', 'qwen2'],
    { quantize: 'nf4', lora, microBatchSize: 2, sequenceLength: 20 },
    'none',
  ],
  [
    'LoRA on a model with norms of heads',
    ['models', 'qwen3'],
    { quantize: 'none', lora, microBatchSize: 2, sequenceLength: 20 },
    'full',
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
    'none',
  ],
]

onEveryDevice('the memory plan', (device) => {
  describe.each(cases)('of %s', (_name, folder, shape, recompute) => {
    const model = loadDirectory(goldenPath(...folder), device, shape.quantize)
    const plan = planTraining(model.config, shape, recompute, device)
    const micro = fullMicroBatch(shape.microBatchSize * shape.sequenceLength)
    const parameters = addAdapter(model, shape.lora, 0)
    const step = (bytes: number, ...micros: (typeof micro)[]) => {
      const arena = new Arena(device, bytes)
      const dropout = { rate: shape.lora.dropout, seed: 0 }
      trainStep(trainerOf(model, parameters, { arena, recompute, dropout }), batchOf(...micros), 0)
      return arena
    }

    test('is what a step takes of the arena, to the byte', () => {
      const arena = step(plan.bytes.activations, micro)
      expect(arena.measuredPeak).toBe(plan.bytes.activations)
      expect(arena.mark()).toBe(0)
    })

    test('holds for a step of several micro-batches, which take it in turn', () => {
      expect(step(plan.bytes.activations, micro, micro, micro).measuredPeak).toBe(plan.bytes.activations)
    })

    test('is not a byte too large', () => {
      expectError(() => step(plan.bytes.activations - 1, micro), 'E_MEMORY')
    })

    test('has the bytes of weights and parameters as they are held', () => {
      expect(plan.bytes).toMatchObject({ ...modelBytes(model), adapter: 4 * parameters.values.bytes })
      expect(plan.parameters.adapter).toBe(parameters.count)
    })
  })

  test('of an evaluation is what it takes, to the byte', () => {
    const model = loadDirectory(goldenPath('models', 'llama2'), device)
    const micro = fullMicroBatch(40)
    const evaluate = (of: typeof model, arena: Arena) => evaluateLoss(of, arena, [micro], neverAborted)
    const bytes = arenaBytes(device, (arena) => evaluate(metaModel(model.config, 'none', device), arena))
    const arena = new Arena(device, bytes)
    evaluate(model, arena)
    expect(arena.measuredPeak).toBe(bytes)
  })
})

describe('a budget', () => {
  const config = prunedConfigOf('LLaMA-2-13B', 0.65)
  const shape: TrainingShape = { quantize: 'nf4', lora, microBatchSize: 1, sequenceLength: 512 }
  const [none, full] = (['none', 'full'] as const).map((recompute) => planTraining(config, shape, recompute, cpu))

  test('takes the least recomputation that fits', () => {
    expect(full!.bytes.total).toBeLessThan(none!.bytes.total)
    expect(planWithin(config, shape, 'none', none!.bytes.total, cpu)).toEqual(none)
    expect(planWithin(config, shape, 'none', none!.bytes.total - 1, cpu)).toEqual(full)
    expect(planWithin(config, shape, 'full', none!.bytes.total, cpu)).toEqual(full)
  })

  test('that nothing fits is refused with the figures', () => {
    const details = { field: 'memory', found: expect.stringContaining('with full recompute') }
    expectError(() => planWithin(config, shape, 'none', full!.bytes.total - 1, cpu), 'E_MEMORY', details)
  })
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
    const { reduction } = planTraining(prunedConfigOf(model, ratio), { ...shape, quantize }, 'none', cpu)
    expect(reduction.toFixed(2)).toBe(times)
  })

  test('LLaMA-3.1-70B cut by 0.85 takes 8.12 GB of projections in NF4 and 4.20 GB of tables in bf16', () => {
    const { bytes } = planTraining(prunedConfigOf('LLaMA-3.1-70B', 0.85), { ...shape, quantize: 'nf4' }, 'none', cpu)
    expect(bytes.projections / 1e9).toBeCloseTo(8.12, 2)
    expect(bytes.tables / 1e9).toBeCloseTo(4.2, 2)
  })
})
