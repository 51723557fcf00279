import { existsSync } from 'node:fs'
import { batchStream, evaluationBatches } from '../data/batches.ts'
import type { Examples } from '../data/encode.ts'
import type { SharedContext } from '../distributed/group.ts'
import type { PruningPlan } from '../formats/pruningJson.ts'
import { evaluateLoss } from '../infer/perplexity.ts'
import type { Adapter } from '../lora/adapter.ts'
import { adapterFrom, addAdapter, writePairs } from '../lora/attach.ts'
import type { MemoryPlan } from '../memory/planner.ts'
import type { Model } from '../model/model.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import type { ResolvedOptions } from '../options/index.ts'
import { Arena } from '../tensor/arena.ts'
import { disposing } from '../tensor/disposing.ts'
import { neverAborted } from '../worker/protocol.ts'
import { AdamW, adamWDefaults } from './adamW.ts'
import type { Progress } from './checkpoint.ts'
import type { RunEvent } from './events.ts'
import { runLoop } from './loop.ts'
import { offloadMemory } from './offload.ts'
import { preservation } from './preserve.ts'
import { Rotation, type RotationOptions } from './rotation.ts'

/** Steps that `epochs` over `examples` take, unless `maxSteps` is less. */
export const totalSteps = ({ epochs, maxSteps }: ResolvedOptions['train'], batchesPerEpoch: number): number =>
  Math.min(Math.ceil(epochs * batchesPerEpoch), maxSteps ?? Number.POSITIVE_INFINITY)

/** What a run learns from, what it is evaluated on, and the text of which its predictions are preserved. */
export interface Material {
  train: Examples
  eval?: Examples
  preserved?: Examples | undefined
}

/** What may be special about a run. */
interface Special {
  /** The model is a slice that changes: of this original, at first by this plan. */
  rotating?: ({ original: OpenCheckpoint; plan: PruningPlan } & RotationOptions) | undefined
  /** A recovered adapter to go on from, on the original. */
  finishing?: Adapter
}

/**
 * Trains a new adapter on `model` and gives it back with the widths that the model has, or, where the model is a slice that
 * changes, with those of the original.
 * @param sample is called with the model's adapter in place, at the start of a new run and at the end
 */
export function trainAdapter(
  model: Model,
  examples: Material,
  options: ResolvedOptions,
  plan: MemoryPlan,
  folder: string,
  context: SharedContext<RunEvent>,
  sample: (step: number) => void,
  { rotating, finishing }: Special = {},
): { adapter: Adapter; progress: Progress } {
  const { data, lora, train, seed, resume } = options
  const { microBatchSize, weightDecay, maxGradNorm } = train
  const { sequenceLength } = data
  const { recompute, bytes } = plan
  const { device, config } = model
  const { group } = context
  const streamOptions = { ...data, ...train, sequenceLength, shuffle: true, seed, dropLast: false, share: group }
  const { batchesPerEpoch } = batchStream(examples.train, streamOptions)
  const held = examples.eval
  return disposing((own) => {
    const arena = own(() => new Arena(device, bytes.activations))
    const setting = rotating && { ...rotating, seed, arena }
    const rotation = setting && own(() => new Rotation(model, setting.original, setting.plan, lora, setting))
    const parameters = rotation?.parameters ?? own(() => addAdapter(model, lora, seed))
    if (finishing) writePairs(parameters, finishing)
    const optimizer = own(() => new AdamW(parameters, { ...adamWDefaults, weightDecay }))
    const host = own(() => offloadMemory(device, config, recompute, microBatchSize * sequenceLength))
    const dropout = { rate: lora.dropout, seed }
    const { preserved } = examples
    const preserve =
      preserved &&
      preservation(model, preserved, { ...train.preserve!, microBatchSize, sequenceLength, seed, share: group })
    // In the arena of a step, which is empty between steps and never needs less.
    const evaluate = (held: Examples) => {
      rotation?.before(optimizer.step)
      const batches = evaluationBatches(held, { microBatchSize, sequenceLength })
      // Several processes stop together, which they agree upon between steps
      return evaluateLoss(model, arena, batches, group.size === 1 ? context.signal : neverAborted, group)
    }
    if (!existsSync(folder)) sample(0)
    const progress = runLoop(
      {
        stage: finishing ? 'recover' : 'train',
        trainer: {
          model,
          parameters,
          rotation,
          preserve,
          optimizer,
          arena,
          host,
          maxGradNorm,
          recompute,
          dropout,
          group,
        },
        batches: (state) => batchStream(examples.train, streamOptions, state),
        schedule: { ...train, totalSteps: totalSteps(train, batchesPerEpoch) },
        folder,
        resume,
        saveSteps: train.saveSteps,
        keepCheckpoints: train.keepCheckpoints,
        ...(held && {
          evaluation: { every: train.evalSteps, patience: train.patience, evaluate: () => evaluate(held) },
        }),
      },
      context,
    )
    // Another slice is cut only where somebody looks at it
    if (options.log.samples > 0) rotation?.before(optimizer.step)
    sample(progress.step)
    return { adapter: adapterFrom(parameters, lora, options.model), progress }
  })
}
