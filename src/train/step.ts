import type { Batch, MicroBatch } from '../data/batches.ts'
import { alone, type Group } from '../distributed/group.ts'
import { blockBackward, blockForward, kept, remade, type Tokens } from '../model/block.ts'
import { headLoss, type Teaching, targetsOf } from '../model/head.ts'
import type { Dropout } from '../model/linear.ts'
import { embed, embedBackward, type Model, modelForward } from '../model/model.ts'
import { keepZeros } from '../native/optimizer.ts'
import type { Arena } from '../tensor/arena.ts'
import { type Tensor, tensorFrom, zeros } from '../tensor/tensor.ts'
import type { AdamW } from './adamW.ts'
import { clip, GradientSum } from './gradients.ts'
import { awaitOffloads, LayerInputs, LayerOutputs } from './offload.ts'
import type { ParameterSet, Trained } from './parameters.ts'
import type { Preservation } from './preserve.ts'
import { type RecomputePlan, recomputeOf } from './recompute.ts'
import type { Rotation } from './rotation.ts'
import type { Teacher } from './teacher.ts'

export interface Trainer {
  readonly model: Model
  /** What trains: LoRA's pairs, or the model's own weights in alignment. */
  readonly parameters: ParameterSet
  readonly optimizer: AdamW
  /** Holds a step's activations, and nothing between steps. */
  readonly arena: Arena
  /** Holds what `recompute` offloads. */
  readonly host?: Tensor | undefined
  readonly maxGradNorm: number
  /** Of a model whose single weights were cut: those that train, whose zeros stay. */
  readonly sparse?: readonly Trained[]
  readonly teacher?: Teacher | undefined
  readonly preserve?: Preservation | undefined
  /** Where `parameters` are those of the original, and `model` is a slice of it that changes. */
  readonly rotation?: Rotation | undefined
  readonly recompute: RecomputePlan
  readonly dropout: { readonly rate: number; readonly seed: number }
  /** The processes that divide each batch among them; default this one alone. */
  readonly group?: Group
}

export interface StepResult {
  /** Mean cross-entropy over the batch's targets, and what `preserve` adds; of several processes, this one's part of the sum. */
  readonly loss: number
  /** Before clipping. */
  readonly gradNorm: number
}

/**
 * One optimizer step. Micro-batches add up their gradients, and so do processes; every target of the batch weighs the same.
 * All processes come to the same parameters.
 */
export function trainStep(trainer: Trainer, batch: Batch, learningRate: number): StepResult {
  const { parameters, optimizer, arena, rotation, preserve, group = alone } = trainer
  rotation?.before(optimizer.step)
  const start = arena.mark()
  const loss = zeros(arena, [1], 'f32')
  parameters.zeroGrads()
  const sum = new GradientSum(group, parameters)
  const last = batch.microBatches.length - 1
  for (const [i, micro] of batch.microBatches.entries()) {
    const isComplete = i === last && !rotation && !preserve
    accumulate(trainer, micro, 1 / batch.targetCount, loss, {
      dropout: dropoutOf(trainer, group.rank + i * group.size),
      teacher: trainer.teacher,
      aroundLayer: (layer, backward) => {
        backward()
        if (isComplete) sum.layerDone(layer)
      },
    })
  }
  if (preserve) addDivergence(trainer, preserve, loss)
  rotation?.after()
  sum.finish()
  for (const { value, grad } of trainer.sparse ?? []) keepZeros(value, grad)
  const gradNorm = clip(group, parameters, trainer.maxGradNorm, arena)
  optimizer.update(learningRate, group)
  const result = { loss: loss.item(), gradNorm: gradNorm.item() }
  arena.release(start)
  return result
}

/** Adds the weighted mean divergence from what is to be preserved to `loss`, and its gradients to those of the step. */
export function addDivergence(
  trainer: Pick<Trainer, 'model' | 'arena' | 'host' | 'recompute' | 'optimizer'>,
  { teacher, weight, batchAt }: Preservation,
  loss: Tensor,
): void {
  const { microBatches, targetCount } = batchAt(trainer.optimizer.step)
  for (const micro of microBatches) accumulate(trainer, micro, weight / targetCount, loss, { teacher })
}

/**
 * Forward and backward of one micro-batch: adds `scale` times its summed loss to `loss`, and the gradients of whatever
 * trains to theirs.
 * @param aroundLayer is called for each layer, last first, and runs its backward pass
 */
export function accumulate(
  { model, arena, host, recompute }: Pick<Trainer, 'model' | 'arena' | 'host' | 'recompute'>,
  micro: MicroBatch,
  scale: number,
  loss: Tensor,
  options: {
    dropout?: Dropout
    teacher?: Teacher | undefined
    aroundLayer?: (index: number, backward: () => void) => void
  } = {},
): void {
  const { dropout, teacher, aroundLayer = (_index, backward) => backward() } = options
  const { constants } = model
  const start = arena.mark()
  if (host) awaitOffloads(arena) // of a step that failed
  const tokens = toDevice(arena, micro, dropout)
  const dx = zeros(arena, [micro.ids.length, model.config.hiddenSize], arena.activations)

  const teaching = teacher && teachingOf(teacher, arena, tokens)
  let x = embed(model, tokens.ids)
  const inputs = new LayerInputs(x, recompute, host)
  const outputs = new LayerOutputs(arena, model.config, recompute, micro.ids.length, host)
  // Layers are asked for when they are needed: of a streamed model one is in memory.
  const layers = Array.from(model.layers.keys(), (i) => {
    const mark = arena.mark()
    const setting = recomputeOf(recompute, i)
    const cheap = setting === 'none' ? kept : remade(arena)
    const input = x
    x = inputs.outputOf(i)
    const forward = (y?: Tensor) => {
      const output = blockForward(model.layers[i]!, constants, input, y, tokens, { cheap, outputs: outputs.of(i, !y) })
      arena.releaseTemporary()
      return output
    }
    const saved = setting === 'full' ? void arena.temporary(() => forward(x)) : forward(x)
    outputs.send(i)
    return { mark, saved: () => saved ?? forward() }
  })
  headLoss(model.head, constants.rmsNormEps, x, targetsOf(micro.targets), scale, loss, { dx, dropout, teaching })
  for (const [i, { mark, saved }] of Array.from(layers.entries()).reverse()) {
    inputs.restore(i)
    const output = saved()
    aroundLayer(i, () => blockBackward(model.layers[i]!, constants, output, dx, tokens))
    outputs.restoreBefore(i)
    arena.release(mark)
  }
  embedBackward(model, tokens.ids, dx)
  arena.release(start)
}

function teachingOf({ model, ...rest }: Teacher, arena: Arena, tokens: Tokens): Teaching {
  const { head, constants } = model
  return { ...rest, head, rmsNormEps: constants.rmsNormEps, x: modelForward(model, arena, tokens) }
}

/** Copies a micro-batch into the arena. */
export function toDevice(
  arena: Arena,
  { ids, positions, bounds }: Omit<MicroBatch, 'targets'>,
  dropout?: Dropout,
): Tokens {
  return {
    ids: tensorFrom(arena, ids),
    positions: tensorFrom(arena, positions),
    bounds: tensorFrom(arena, bounds),
    dropout,
  }
}

/** 2^16 masks for each of 2^16 micro-batches of a step: no two layers, micro-batches or steps share one. */
function dropoutOf({ dropout, optimizer }: Trainer, micro: number): Dropout {
  return { ...dropout, stream: (optimizer.step * 2 ** 16 + micro) * 2 ** 16 }
}
