import { batchStream } from '../data/batches.ts'
import type { Examples } from '../data/encode.ts'
import { type Checkpoint, writeCheckpoint } from '../formats/huggingFace.ts'
import { firstThat, memoryBudget } from '../memory/budget.ts'
import { arenaBytes, fullMicroBatch, metaTwin } from '../memory/measure.ts'
import { expectedTensors } from '../model/config.ts'
import { buildModel, linears, type Model, norms } from '../model/model.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import { converted, heldDtype, readTensor } from '../model/weights.ts'
import { cast, copyInto } from '../native/cast.ts'
import type { ResolvedOptions } from '../options.ts'
import { Arena } from '../tensor/arena.ts'
import { cpu } from '../tensor/device.ts'
import { disposing } from '../tensor/disposing.ts'
import type { Device, Tensor } from '../tensor/tensor.ts'
import { zeros } from '../tensor/tensor.ts'
import type { Context } from '../worker/protocol.ts'
import { AdamW, adamWDefaults } from './adamW.ts'
import type { RunEvent } from './events.ts'
import { hostInputs } from './layerInputs.ts'
import { runLoop } from './loop.ts'
import { ParameterSet } from './parameters.ts'
import { type RecomputePlan, recomputePlans } from './recompute.ts'
import { accumulate } from './step.ts'

/**
 * Names of the weights that alignment trains: all but the output head, as the reference does. Tied embeddings are the head,
 * so they stay too.
 */
export function alignedNames({ config }: Pick<OpenCheckpoint, 'config'>): string[] {
  const fixed = config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight'
  return Array.from(expectedTensors(config).keys()).filter((name) => name !== fixed)
}

/** A model whose weights `names` train: they lie in f32 in a parameter set. The others are read as they are stored. */
export function openTrainable(
  { checkpoint, config }: OpenCheckpoint,
  names: readonly string[],
  device: Device,
): { model: Model; parameters: ParameterSet } {
  const shapes = expectedTensors(config)
  const parameters = new ParameterSet(device, new Map(names.map((name) => [name, shapes.get(name)!])))
  const weight = (name: string): Tensor => {
    const stored = readTensor(checkpoint, name, device)
    const parameter = parameters.byName.get(name)
    if (!parameter) return converted(stored, stored.shape.length === 1 ? 'f32' : heldDtype(device, stored.dtype))
    copyInto(stored, parameter.value)
    stored.dispose()
    return parameter.value
  }
  const model = buildModel(config, device, { linear: weight, table: weight, vector: weight })
  trainWeights(model, parameters)
  return { model, parameters }
}

/** Lets backward add the gradients of `parameters`, which are weights of `model`, to theirs. */
export function trainWeights(model: Model, parameters: ParameterSet): void {
  const owners = new Map<string, { grad?: Tensor }>([['model.embed_tokens.weight', model.embedding]])
  for (const [name, norm] of norms(model)) owners.set(`${name}.weight`, norm)
  for (const [name, linear] of linears(model)) {
    owners.set(`${name}.weight`, linear)
    if (linear.bias) owners.set(`${name}.bias`, linear.bias)
  }
  for (const [name, { grad }] of parameters.byName) owners.get(name)!.grad = grad
  const tied = model.config.tieWordEmbeddings && model.embedding.grad
  if (tied) model.head.linear.grad = tied
}

/** Continual pre-training of a pruned model on running text (the paper's "alignment"); its weights change in place. */
export function alignModel(
  { model, parameters }: { model: Model; parameters: ParameterSet },
  examples: Examples,
  options: NonNullable<ResolvedOptions['align']> & Pick<ResolvedOptions, 'seed' | 'resume'>,
  folder: string,
  context: Context<RunEvent>,
): void {
  const { microBatchSize, sequenceLength, weightDecay, maxGradNorm, steps, seed, resume } = options
  const { device, config } = model
  const tokens = microBatchSize * sequenceLength
  const hostFor = (on: Device, recompute: RecomputePlan) => hostInputs(on, recompute, tokens, config.hiddenSize)
  const twin = metaTwin(model)
  const bytesOf = (recompute: RecomputePlan) =>
    arenaBytes(device, (arena) => {
      const trainer = { model: twin, arena, host: hostFor(arena, recompute), recompute }
      accumulate(trainer, fullMicroBatch(tokens), 1, zeros(arena, [1], 'f32'))
    })
  const streamOptions = { ...options, packing: false, shuffle: true, dropLast: false }
  disposing((own) => {
    const optimizer = own(new AdamW(parameters, { ...adamWDefaults, weightDecay }))
    const budget = memoryBudget(undefined, device.kind === 'cuda')
    const plans = recomputePlans(options, config.layers.length, device)
    const recompute = firstThat(plans, (plan) => bytesOf(plan) <= budget)
    const arena = own(new Arena(device, bytesOf(recompute)))
    const host = own(hostFor(device, recompute))
    const dropout = { rate: 0, seed }
    runLoop(
      {
        stage: 'align',
        trainer: { model, parameters, optimizer, arena, host, maxGradNorm, recompute, dropout },
        batches: (state) => batchStream(examples, streamOptions, state),
        schedule: { ...options, totalSteps: steps },
        folder,
        resume,
        saveSteps: alignSaveSteps,
        keepCheckpoints: 1,
      },
      context,
    )
  })
}

/** A checkpoint of alignment holds three times the model in f32, so they are rare. */
const alignSaveSteps = 100

/** Writes the aligned model: the trained weights rounded to the dtype they were stored in, all else copied. */
export function writeAligned(checkpoint: Checkpoint, parameters: ParameterSet, dir: string): void {
  writeCheckpoint(dir, {
    configJson: checkpoint.configJson,
    entries: Array.from(checkpoint.tensors, ([name, { dtype, shape }]) => ({ name, dtype, shape })),
    data: (name) => {
      const value = parameters.byName.get(name)?.value
      const tensor = value ? cast(value, checkpoint.tensors.get(name)!.dtype) : readTensor(checkpoint, name, cpu)
      return new Uint8Array(tensor.read().buffer)
    },
    ...(checkpoint.pruning && { pruning: checkpoint.pruning }),
    copyFrom: checkpoint.dir,
  })
}
