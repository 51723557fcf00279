import type { SharedContext } from '../distributed/group.ts'
import { ConfigError, MemoryError } from '../errors.ts'
import { memoryBudget, planWithin } from '../memory/budget.ts'
import { formatBytes, parseBytes } from '../memory/bytes.ts'
import { metaModel } from '../memory/measure.ts'
import type { MemoryPlan, TrainingShape } from '../memory/planner.ts'
import { heldBytes } from '../model/model.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import type { ResolvedOptions } from '../options/index.ts'
import { ratioWithin } from '../prune/budget.ts'
import { cutsStructures } from '../prune/methods.ts'
import { layersToPrune } from '../prune/plan.ts'
import type { Device } from '../tensor/tensor.ts'
import type { RunEvent } from './events.ts'
import { recomputePlans } from './recompute.ts'

// What a run decides, and refuses, before it works.

interface Planned {
  options: ResolvedOptions
  device: Device
  context: SharedContext<RunEvent>
}

/** Refuses what the model and the device do not allow, before anything is read or pruned. */
export function checkOptions(options: ResolvedOptions, { checkpoint, config }: OpenCheckpoint, device: Device): void {
  const { prune, align, recover, train, memory } = options
  if (memory !== undefined) parseBytes(memory, 'memory')
  recomputePlans(train, config.layers.length, device)
  if (prune || checkpoint.pruning) return
  const refuse = (field: string, message: string) => {
    throw new ConfigError('E_CONFIG', message, { field, remedy: `add prune, or leave ${field} out` })
  }
  if (align) refuse('align', 'only a pruned model is aligned')
  if (recover.scale !== 1) refuse('recover.scale', 'there is nothing to recover from a model that is not pruned')
  if (recover.fill !== 'zero') refuse('recover.fill', 'there is nothing to fill in a model that is not pruned')
}

/** Says where sequences may be longer than what the model was trained with: the option, and how long. */
export function positionNotices({ config }: OpenCheckpoint, lengths: Record<string, number | undefined>): string[] {
  const most = config.maxPositionEmbeddings
  return Object.entries(lengths).flatMap(([field, length]) =>
    length !== undefined && length > most
      ? [`${field} is ${length}, and the model was made for ${most} tokens (max_position_embeddings)`]
      : [],
  )
}

export function memoryPlan(run: Planned, { config }: OpenCheckpoint): MemoryPlan {
  const { options, device } = run
  return planWithin(config, trainingShape(options), options.train, budgetOf(run), device)
}

/** The same for all processes: that of the GPU with the least room. */
function budgetOf({ options, device, context: { group } }: Planned): number {
  group.barrier()
  return Math.min(...group.gather([memoryBudget(options.memory, device.kind === 'cuda')]).flat())
}

export const trainingShape = ({
  quantize,
  quantizeTables,
  lora,
  train,
  data,
  prune,
}: ResolvedOptions): TrainingShape => ({
  quantize,
  quantizeTables,
  rotates: prune?.rotate !== undefined,
  preserves: train.preserve !== undefined,
  lora,
  microBatchSize: train.microBatchSize,
  sequenceLength: data.sequenceLength,
})

/** Of training on the original, where there is such: what does not fit is refused before anything is trained. */
export function finishingPlan(run: Planned, { config }: OpenCheckpoint): MemoryPlan | undefined {
  const { recover, prune, ...options } = run.options
  if (!recover.finish) return undefined
  return planWithin(config, trainingShape({ ...options, recover }), options.train, budgetOf(run), run.device)
}

/** Factors are tried with the original, which is held as the small model is. */
export function checkOriginalFits(run: Planned, { config }: OpenCheckpoint, { quantizeTables }: MemoryPlan): void {
  const { options, device } = run
  const bytes = heldBytes(metaModel(config, { quantize: options.quantize, quantizeTables }, device))
  const budget = budgetOf(run)
  if (bytes <= budget) return
  throw new MemoryError('E_MEMORY', 'the original does not fit the memory, and recover.scale tries factors with it', {
    field: 'recover.scale',
    expected: `at most ${formatBytes(budget)}`,
    found: `${formatBytes(bytes)} of weights`,
    remedy: 'give a number',
  })
}

/** The ratio that a memory budget asks for, where none is given and a ratio makes the model smaller. */
export function ratioForMemory(
  { options, device, context }: Planned,
  { method, ratio, targetParams, layers }: NonNullable<ResolvedOptions['prune']>,
  { config }: OpenCheckpoint,
): number | undefined {
  const { memory, train } = options
  if (memory === undefined || ratio !== undefined || targetParams !== undefined || !cutsStructures(method)) {
    return ratio
  }
  const budget = { shape: trainingShape(options), choice: train, bytes: parseBytes(memory, 'memory') }
  const chosen = ratioWithin(config, layersToPrune(config.numHiddenLayers, layers), budget, device)
  context.emit({
    type: 'notice',
    message: `pruning ratio ${chosen}, the smallest that fits ${formatBytes(budget.bytes)}`,
  })
  return chosen
}
