import type { Batch, MicroBatch } from '../../src/data/batches.ts'
import { countTargets } from '../../src/data/encode.ts'
import type { Adapter } from '../../src/lora/adapter.ts'
import { addAdapter, targetModules, writePairs } from '../../src/lora/attach.ts'
import type { Dropout } from '../../src/model/linear.ts'
import type { Model } from '../../src/model/model.ts'
import { zeros } from '../../src/tensor/tensor.ts'
import { AdamW, adamWDefaults } from '../../src/train/adamW.ts'
import type { ParameterSet } from '../../src/train/parameters.ts'
import { uniform } from '../../src/train/recompute.ts'
import { accumulate, addDivergence, type Trainer } from '../../src/train/step.ts'
import { testArena } from '../model/support.ts'
import { expectWithin, generator, toArray, unitRoundoff } from '../ops/support.ts'

export function batchOf(...microBatches: MicroBatch[]): Batch {
  const targetCount = microBatches.reduce((sum, { targets }) => sum + countTargets(targets), 0)
  return { microBatches, targetCount, epoch: 0, examples: [] }
}

/** Gives `model` the pairs of `adapter` to train. */
export function trainAdapter(model: Model, adapter: Adapter): ParameterSet {
  const names = Array.from(adapter.modules.keys())
  const targets = targetModules.filter((target) => names.some((name) => name.endsWith(target)))
  const parameters = addAdapter(model, { ...adapter, targets }, 0)
  writePairs(parameters, adapter)
  return parameters
}

export function trainerOf(
  model: Model,
  parameters: ParameterSet,
  options: Partial<Trainer> & { weightDecay?: number } = {},
): Trainer {
  const { weightDecay = 0, ...rest } = options
  return {
    model,
    parameters,
    optimizer: new AdamW(parameters, { ...adamWDefaults, weightDecay }),
    arena: options.arena ?? testArena(model.device),
    maxGradNorm: 1,
    recompute: uniform('none', model.layers.length),
    dropout: { rate: 0, seed: 0 },
    ...rest,
  }
}

/** Mean loss of a batch; its gradients are added to those of whatever trains. */
export function backward(
  trainer: Pick<Trainer, 'model' | 'arena' | 'optimizer' | 'recompute' | 'teacher' | 'preserve' | 'rotation'>,
  { microBatches, targetCount }: Batch,
  options?: Parameters<typeof accumulate>[4],
): number {
  const loss = zeros(trainer.model.device, [1], 'f32')
  trainer.rotation?.before(0)
  for (const micro of microBatches) {
    accumulate(trainer, micro, 1 / targetCount, loss, { teacher: trainer.teacher, ...options })
  }
  if (trainer.preserve) addDivergence(trainer, trainer.preserve, loss)
  trainer.rotation?.after()
  return loss.item()
}

/**
 * Fails unless the loss changes as the gradient of each parameter says, by central differences along one random direction:
 * along the gradient itself a part of it that is missing, at right angles to the rest, would not show.
 */
export function expectSlopes(trainer: Trainer, batch: Batch, dropout?: Dropout): void {
  const { parameters } = trainer
  const lossNow = () => {
    parameters.round()
    return backward(trainer, batch, dropout && { dropout })
  }
  parameters.zeroGrads()
  const loss = lossNow()
  const gradients = Array.from(parameters.byName.values(), ({ value, grad }) => ({ value, gradient: toArray(grad) }))
  // A mean over targets, each term in fp32
  const rounding = batch.targetCount * unitRoundoff.f32 * loss
  for (const { value, gradient } of gradients) {
    const direction = unitVector(gradient.length)
    const slope = gradient.reduce((sum, g, i) => sum + g * direction[i]!, 0)
    const start = toArray(value)
    const lossAt = (distance: number) => {
      value.write(Float32Array.from(start, (x, i) => x + distance * direction[i]!))
      return lossNow()
    }
    const difference = (h: number) => (lossAt(h) - lossAt(-h)) / (2 * h)
    const h = 0.05
    const [near, far] = [difference(h), difference(2 * h)]
    value.write(Float32Array.from(start))
    // The truncation is of order h^2, so that of `near` is a third of what `far` has more.
    expectWithin([near], [slope], () => Math.abs(far - near) + rounding / h)
  }
}

function unitVector(size: number): number[] {
  const vector = Array.from({ length: size }, generator(1))
  const length = Math.hypot(...vector)
  return vector.map((x) => x / length)
}

/** PEFT's name of a parameter, which is `<module>.lora_A` or `<module>.lora_B` here. */
export const peftName = (name: string): string => `base_model.model.${name}.weight`
