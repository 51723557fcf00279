import { rmSync } from 'node:fs'
import { batchStream } from '../data/batches.ts'
import type { Examples } from '../data/encode.ts'
import { alone, isFirst, type Share, type SharedContext } from '../distributed/group.ts'
import { type Checkpoint, writeCheckpoint } from '../formats/huggingFace.ts'
import type { Adapter } from '../lora/adapter.ts'
import { adapterFrom, addAdapter, loraDefaults } from '../lora/attach.ts'
import { writeMerged } from '../lora/merge.ts'
import { firstThat, memoryBudget } from '../memory/budget.ts'
import { arenaBytes, fullMicroBatch, metaModel, metaTwin } from '../memory/measure.ts'
import { scratchBytes } from '../memory/scratch.ts'
import { expectedTensors } from '../model/config.ts'
import { buildModel, disposeModel, linears, type Model, norms, parseModule } from '../model/model.ts'
import { type OpenCheckpoint, readModel } from '../model/open.ts'
import { converted, heldDtype, readTensor } from '../model/weights.ts'
import { cast, copyInto } from '../native/cast.ts'
import type { ResolvedOptions } from '../options/index.ts'
import { Arena } from '../tensor/arena.ts'
import { cpu } from '../tensor/device.ts'
import { disposing } from '../tensor/disposing.ts'
import { allOrNothing, type Device, type Tensor, zeros } from '../tensor/tensor.ts'
import { AdamW, adamWDefaults } from './adamW.ts'
import type { RunEvent } from './events.ts'
import { runLoop } from './loop.ts'
import { offloadMemory } from './offload.ts'
import { ParameterSet, type Trained } from './parameters.ts'
import { type RecomputePlan, recomputePlans } from './recompute.ts'
import { accumulate } from './step.ts'
import { type OpenTeacher, openTeacher } from './teacher.ts'

/**
 * Names of the weights that alignment trains: all but the output head, as the reference does. Tied embeddings are the head,
 * so they stay too.
 */
export function alignedNames({ config }: Pick<OpenCheckpoint, 'config'>): string[] {
  const fixed = config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight'
  return Array.from(expectedTensors(config).keys()).filter((name) => name !== fixed)
}

/** A model and what of it trains. */
export interface Trainable {
  model: Model
  parameters: ParameterSet
  /** Weights that train and whose zeros are what pruning cut, and stay. */
  sparse?: Trained[]
}

/**
 * A model whose weights `names` train: they lie in f32 in a parameter set, which the processes of `share` divide. The others are
 * read as they are stored.
 */
export function openTrainable(
  { checkpoint, config }: OpenCheckpoint,
  names: readonly string[],
  device: Device,
  share: Share = alone,
): Required<Trainable> {
  const shapes = expectedTensors(config)
  const parameters = new ParameterSet(device, new Map(names.map((name) => [name, shapes.get(name)!])), { share })
  for (const [name, { value }] of parameters.byName) {
    const stored = readTensor(checkpoint, name, device)
    copyInto(stored, value)
    stored.dispose()
  }
  parameters.round()
  const weight = (name: string): Tensor => {
    const parameter = parameters.byName.get(name)
    if (parameter) return parameter.operand
    const stored = readTensor(checkpoint, name, device)
    return converted(stored, stored.shape.length === 1 ? 'f32' : heldDtype(device, stored.dtype))
  }
  const model = buildModel(config, device, { linear: weight, table: weight, vector: weight })
  trainWeights(model, parameters)
  const isSparse = (name: string) =>
    checkpoint.pruning?.pattern !== undefined && name.endsWith('.weight') && parseModule(name) !== undefined
  return { model, parameters, sparse: names.filter(isSparse).flatMap((name) => parameters.ownOf(name) ?? []) }
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

type AlignOptions = NonNullable<ResolvedOptions['align']> & Pick<ResolvedOptions, 'seed' | 'resume'>

/**
 * Aligns the pruned model `source` to running text and writes the result to the folder `dir`: trains its own weights, or
 * with `lora` pairs that are merged into them afterwards; with `distill` to the predictions of the original as well.
 * @param folder of checkpoints, removed at the end
 */
export function align(
  source: OpenCheckpoint,
  examples: Examples,
  options: AlignOptions,
  device: Device,
  folder: string,
  dir: string,
  context: SharedContext<RunEvent>,
): void {
  const { lora, distill, seed } = options
  const { teacher, trainable } = allOrNothing(() => ({
    teacher: distill && openTeacher(distill, source, device),
    trainable: lora
      ? openPairs(source, lora, seed, device)
      : openTrainable(source, alignedNames(source), device, context.group),
  }))
  try {
    alignModel(trainable, examples, options, folder, context, teacher)
    trainable.parameters.gather(trainable.parameters.values, context.group)
    if (!isFirst(context.group)) return
    if (lora) writeMergedPairs(source.checkpoint, adapterFrom(trainable.parameters, pairsOf(lora), dir), dir)
    else writeAligned(source.checkpoint, trainable.parameters, dir)
    rmSync(folder, { recursive: true })
  } finally {
    // On a GPU the small model trains in what this frees.
    teacher?.dispose()
    disposeModel(trainable.model)
    trainable.parameters.dispose()
  }
}

type Pairs = NonNullable<AlignOptions['lora']>
const pairsOf = ({ rank, alpha }: Pairs) => ({ ...loraDefaults, rank, alpha, dropout: 0 })

function openPairs(source: OpenCheckpoint, lora: Pairs, seed: number, device: Device): Trainable {
  const { model } = readModel(source, device, { quantize: lora.quantize })
  return { model, parameters: addAdapter(model, pairsOf(lora), seed) }
}

/** Where single weights were cut, they stay cut. */
function writeMergedPairs(checkpoint: Checkpoint, adapter: Adapter, dir: string): void {
  writeMerged(checkpoint, adapter, dir, { keepZeros: checkpoint.pruning?.pattern !== undefined })
}

/** Continual pre-training of a pruned model on running text (the paper's "alignment"); what trains changes in place. */
export function alignModel(
  { model, parameters, sparse = [] }: Trainable,
  examples: Examples,
  options: AlignOptions,
  folder: string,
  context: SharedContext<RunEvent>,
  teacher: OpenTeacher | undefined,
): void {
  const { microBatchSize, sequenceLength, weightDecay, maxGradNorm, steps, seed, resume } = options
  const { device, config } = model
  const { group } = context
  const tokens = microBatchSize * sequenceLength
  const hostFor = (on: Device, recompute: RecomputePlan) => offloadMemory(on, config, recompute, tokens)
  const twin = metaTwin(model)
  // As if it were in NF4, which takes more beside the arena
  const teacherTwin = teacher && { ...teacher, model: metaModel(teacher.model.config, { quantize: 'nf4' }, device) }
  const bytesOf = (recompute: RecomputePlan) =>
    arenaBytes(device, (arena) => {
      const trainer = { model: twin, arena, host: hostFor(arena, recompute), recompute }
      accumulate(trainer, fullMicroBatch(tokens), 1, zeros(arena, [1], 'f32'), { teacher: teacherTwin })
    })
  const streamOptions = { ...options, packing: false, shuffle: true, dropLast: false, share: group }
  disposing((own) => {
    const optimizer = own(() => new AdamW(parameters, { ...adamWDefaults, weightDecay }))
    const budget = memoryBudget(undefined, device.kind === 'cuda')
    const plans = recomputePlans(options, config.layers.length, device)
    const models = teacherTwin ? [model, teacherTwin.model] : [model]
    const scratch = Math.max(...models.map((one) => scratchBytes(one, tokens, device)))
    const recompute = firstThat(plans, (plan) => bytesOf(plan) + scratch <= budget)
    const arena = own(() => new Arena(device, bytesOf(recompute)))
    const host = own(() => hostFor(device, recompute))
    const dropout = { rate: 0, seed }
    runLoop(
      {
        stage: 'align',
        trainer: { model, parameters, sparse, teacher, optimizer, arena, host, maxGradNorm, recompute, dropout, group },
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

/** Writes the aligned model: the trained weights, which must be gathered, rounded to the dtype they were stored in, all else copied. */
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
