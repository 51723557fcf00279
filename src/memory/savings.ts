import { MemoryError } from '../errors.ts'
import { type LlamaConfig, prunedWidths } from '../model/config.ts'
import { layersToPruneByDefault } from '../prune/plan.ts'
import type { Device } from '../tensor/tensor.ts'
import { recomputePlans } from '../train/recompute.ts'
import { formatBytes } from './bytes.ts'
import { countParameters, type MemoryPlan, planTraining, type TrainingShape, unprunedConfig } from './planner.ts'

/**
 * The three settings that save most memory beside those of `plan`, each by itself, and the bytes, found by planning them:
 * "microBatchSize 2 saves 1.12 GiB; ...".
 */
export function describeSavings(config: LlamaConfig, shape: TrainingShape, plan: MemoryPlan, device: Device): string {
  const { microBatchSize, sequenceLength, lora } = shape
  const { quantizeTables } = plan
  const layers = config.layers.length
  const resized = (change: Partial<TrainingShape>, of = config) =>
    planTraining(of, { ...shape, quantizeTables, ...change }, plan.recompute, device)
  const recomputed = (offload: boolean) => {
    const [recompute] = recomputePlans({ recompute: 'full', offload }, layers, device)
    return planTraining(config, { ...shape, quantizeTables }, recompute!, device)
  }
  const half = (size: number) => Math.max(1, Math.floor(size / 2))
  const pruned = prunedFurther(config)
  const settings = new Map([
    ['recompute full', recomputed(false)],
    [`microBatchSize ${half(microBatchSize)}`, resized({ microBatchSize: half(microBatchSize) })],
    [`sequenceLength ${half(sequenceLength)}`, resized({ sequenceLength: half(sequenceLength) })],
    [`lora.rank ${half(lora.rank)}`, resized({ lora: { ...lora, rank: half(lora.rank) } })],
    ['quantize nf4', resized({ quantize: 'nf4' })],
    ['quantizeTables true', resized({ quantizeTables: true })],
  ])
  if (device.activations === 'bf16') settings.set('offload true', recomputed(true))
  if (pruned) settings.set(`prune.ratio ${pruned.ratio}`, resized({}, pruned.config))
  return Array.from(settings, ([setting, { bytes }]) => ({ setting, saved: plan.bytes.total - bytes.total }))
    .filter(({ saved }) => saved > 0)
    .sort((a, b) => b.saved - a.saved)
    .slice(0, 3)
    .map(({ setting, saved }) => `${setting} saves ${formatBytes(saved)}`)
    .join('; ')
}

/** `error`, which stopped training by `plan`; where the GPU was full, with what would save most as the remedy. */
export function withSavings(error: unknown, ...planned: Parameters<typeof describeSavings>): unknown {
  if (!(error instanceof MemoryError && error.code === 'E_GPU_OOM')) return error
  return new MemoryError(error.code, error.headline, { ...error.details, remedy: describeSavings(...planned) })
}

/** The model pruned by the first usual ratio that leaves it fewer weights than it has; `undefined`: none does. */
function prunedFurther(config: LlamaConfig): { ratio: number; config: LlamaConfig } | undefined {
  const [start, end] = layersToPruneByDefault(config.numHiddenLayers)
  const prunedBy = (ratio: number): LlamaConfig => ({
    ...config,
    nf4: new Map(),
    layers: unprunedConfig(config).layers.map((full, i) =>
      start <= i && i < end ? prunedWidths(full, ratio, ratio) : full,
    ),
  })
  return [0.5, 0.65, 0.75, 0.85, 0.95]
    .map((ratio) => ({ ratio, config: prunedBy(ratio) }))
    .filter((pruned) => pruned.config.layers.every(({ numKeyValueHeads }) => numKeyValueHeads > 0))
    .find((pruned) => countParameters(pruned.config) < countParameters(config))
}
