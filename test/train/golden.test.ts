import { test } from 'vitest'
import type { Batch } from '../../src/data/batches.ts'
import { readAdapter } from '../../src/formats/peft.ts'
import { addAdapter, attachAdapter, loraDefaults, targetModules } from '../../src/lora/attach.ts'
import type { Weight } from '../../src/model/linear.ts'
import { type Model, projectionNames } from '../../src/model/model.ts'
import { dequantizeNf4 } from '../../src/native/nf4.ts'
import { fillUniform } from '../../src/native/random.ts'
import { type Device, Tensor } from '../../src/tensor/tensor.ts'
import { recomputes, uniform } from '../../src/train/recompute.ts'
import { learningRateAt } from '../../src/train/schedule.ts'
import { type StepResult, type Trainer, trainStep } from '../../src/train/step.ts'
import { goldenPath, goldenValues } from '../golden.ts'
import { expectGolden, expectLogits, goldenBatch, loadDirectory } from '../model/support.ts'
import { expectWithin, largest, onEveryDevice, readGolden, toArray, unitRoundoff } from '../ops/support.ts'
import { backward, batchOf, peftName, trainAdapter, trainerOf } from './support.ts'

const golden = readGolden('lora', 'golden.safetensors')
const adapter = readAdapter(goldenPath('lora', 'adapter'))
const batch = goldenBatch(golden)
const base = (device: Device) => loadDirectory(goldenPath('models', 'llama3'), device)

onEveryDevice('LoRA, against PEFT', (device) => {
  test.each(recomputes)('loss and the gradients of all A and B, recompute %s', (recompute) => {
    const model = base(device)
    const plan = uniform(recompute, model.layers.length)
    const trainer = trainerOf(model, trainAdapter(model, adapter), { recompute: plan })
    expectGolden([backward(trainer, batchOf(batch))], golden('loss').data)
    for (const [name, { grad }] of trainer.parameters.byName) expectGolden(grad, golden(`grad.${peftName(name)}`).data)
  })

  test.each([
    ['logits', false],
    ['logits_rslora', true],
  ])('%s', (name, useRslora) => {
    const model = base(device)
    attachAdapter(model, { ...adapter, useRslora })
    expectLogits(model, batch, golden(name).data)
  })

  test('three steps of two micro-batches: clipping, weight decay and a cosine schedule', () => {
    const model = base(device)
    const parameters = trainAdapter(model, adapter)
    const trainer = trainerOf(model, parameters, { weightDecay: 0.01 })
    const schedule = { schedule: 'cosine', learningRate: 1e-3, warmupSteps: 1, totalSteps: 3 } as const
    const trace = new Trace(trainer)
    const results = [0, 1, 2].map((step) => {
      const micros = [0, 1].map((i) => goldenBatch(golden, 'trace.', 2 * step + i))
      return trace.step(batchOf(...micros), learningRateAt(schedule, step))
    })
    expectGolden(
      results.map(({ loss }) => loss),
      goldenValues('lora', 'trace.loss'),
    )
    expectGolden(
      results.map(({ gradNorm }) => gradNorm),
      goldenValues('lora', 'trace.grad_norm_before_clip'),
    )
    trace.expectGolden(golden, 'trace')
  })
})

onEveryDevice('LoRAM, against PEFT on the pruned model', (device) => {
  test('three steps from B = 0, the output head included', () => {
    const golden = readGolden('loram', 'golden.safetensors')
    const model = loadDirectory(goldenPath('loram', 'pruned'), device)
    const parameters = trainAdapter(model, readAdapter(goldenPath('loram', 'adapter-pruned')))
    for (const [name, { value }] of parameters.byName) {
      if (name.endsWith('lora_A')) value.write(golden(`init.${peftName(name)}`).data)
      else value.zero()
    }
    parameters.round()
    const trainer = trainerOf(model, parameters)
    const trace = new Trace(trainer)
    const results = [0, 1, 2].map((step) => trace.step(batchOf(goldenBatch(golden, 'train.', step)), 5e-3))
    expectGolden(
      results.map(({ loss }) => loss),
      goldenValues('loram', 'train.loss'),
    )
    expectGolden(
      results.map(({ gradNorm }) => gradNorm),
      goldenValues('loram', 'train.grad_norm_before_clip'),
    )
    trace.expectGolden(golden, 'train')
  })
})

onEveryDevice('QLoRA', (device) => {
  test('loss and gradients on a checkpoint that bitsandbytes packed', () => {
    const golden = readGolden('nf4', 'checkpoint', 'golden.safetensors')
    const model = loadDirectory(goldenPath('nf4', 'checkpoint'), device)
    const trainer = trainerOf(model, addAdapter(model, { ...loraDefaults, rank: 4, alpha: 8 }, 0))
    const { byName } = trainer.parameters
    for (const [name, { value }] of byName) value.write(golden(`qlora.${peftName(name)}`).data)
    trainer.parameters.round()
    expectGolden([backward(trainer, batchOf(goldenBatch(golden)))], golden('qlora.loss_f32').data)
    for (const [name, { grad }] of byName) expectGolden(grad, golden(`qlora.grad.${peftName(name)}`).data)
  })

  // A pruned width of 61 channels puts the borders of NF4's blocks inside of rows.
  test.each([
    ['a pruned base', ['loram', 'pruned'], false],
    ['a pruned base with its tables', ['loram', 'pruned'], true],
    ['a base with tied tables', ['models', 'llama3-tied'], true],
  ])('gradients on %s in NF4 are those on the same base dequantised', (_, folder, quantizeTables) => {
    const packed = loadDirectory(goldenPath(...folder), device, 'nf4', quantizeTables)
    const micro = goldenBatch(readGolden('loram', 'golden.safetensors'))
    const gradients = [packed, dequantized(packed)].map((model) => {
      const parameters = addAdapter(model, { ...loraDefaults, targets: targetModules }, 0)
      // B is zero in a new adapter, and with it the gradient of A.
      fillUniform(parameters.values, -0.1, 0.1, { seed: 1, stream: 0 })
      parameters.round()
      backward(trainerOf(model, parameters), batchOf(micro))
      return toArray(parameters.grads)
    })
    expectGolden(gradients[0]!, gradients[1]!)
  })
})

/** The same model on the matrices that its NF4 weights stand for. */
function dequantized(model: Model): Model {
  const plain = <Owner extends { weight: Weight }>(owner: Owner): Owner => {
    const { weight } = owner
    return { ...owner, weight: weight instanceof Tensor ? weight : dequantizeNf4(weight, 'f32') }
  }
  const layers = model.layers.map((layer) => {
    const projections = projectionNames.map((name) => [name, plain(layer[name])])
    return { ...layer, ...Object.fromEntries(projections) }
  })
  const head = { ...model.head, linear: plain(model.head.linear) }
  return { ...model, embedding: plain(model.embedding), layers, head }
}

const laterError = 1e-4

/**
 * Steps, and how far they may lead from golden ones. Gradients agree to 1e-5 of their tensor's largest in the first step;
 * later ones are taken at parameters that differ already, and agreed to 5e-5 for each of four seeds, so they get 1e-4. A
 * step of Adam is rate * m / sqrt(v): such an error, once in m and once in v, grows where an element's own gradients so
 * far, sqrt(v), are small.
 */
class Trace {
  private readonly trainer: Trainer
  private readonly bounds: Float64Array
  private readonly mostGrad = new Map<string, number>()

  constructor(trainer: Trainer) {
    this.trainer = trainer
    this.bounds = new Float64Array(trainer.parameters.values.elements)
  }

  step(batch: Batch, learningRate: number): StepResult {
    const { parameters, optimizer } = this.trainer
    const result = trainStep(this.trainer, batch, learningRate)
    const variance = toArray(optimizer.secondMoment)
    const error = optimizer.step === 1 ? 1e-5 : laterError
    for (const [name, { grad }] of parameters.byName) {
      const most = Math.max(largest(toArray(grad)), this.mostGrad.get(name) ?? 0)
      this.mostGrad.set(name, most)
      const from = this.offsetOf(name)
      for (let i = from; i < from + grad.elements; i++) {
        const rootMeanSquare = Math.sqrt(variance[i]! / (1 - 0.999 ** optimizer.step))
        this.bounds[i]! += learningRate * Math.min(2, (2 * error * most) / rootMeanSquare || 0)
      }
    }
    return result
  }

  /**
   * Checks parameters and both moments. Not in bf16: Adam's first steps are a gradient by its own size, so where it is no
   * larger than its rounding, chance decides their sign.
   */
  expectGolden(g: typeof golden, name: string): void {
    const { parameters, optimizer } = this.trainer
    if (parameters.values.device.activations === 'bf16') return
    for (const [parameter, { value }] of parameters.byName) {
      const from = this.offsetOf(parameter)
      const want = (kind: string) => g(`${name}.${kind}.${peftName(parameter)}`).data
      const variance = want('adam_v')
      const mean = want('adam_m')
      expectWithin(optimizer.firstMoment.slice(from, value.shape), mean, () => laterError * largest(mean))
      // A square has twice its root's relative error
      expectWithin(optimizer.secondMoment.slice(from, value.shape), variance, () => 2 * laterError * largest(variance))
      const rounding = 3 * unitRoundoff.f32
      expectWithin(value, want('after'), (after, i) => this.bounds[from + i]! + rounding * Math.abs(after))
    }
  }

  private offsetOf(name: string): number {
    const { values, byName } = this.trainer.parameters
    return (byName.get(name)!.value.memory.byteOffset - values.memory.byteOffset) / 4
  }
}
