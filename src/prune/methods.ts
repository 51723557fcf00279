import type { MicroBatch } from '../data/batches.ts'
import { type Checkpoint, fingerprint } from '../formats/huggingFace.ts'
import type { PruningPlan } from '../formats/pruningJson.ts'
import { arenaFor } from '../memory/measure.ts'
import type { LlamaConfig } from '../model/config.ts'
import { buildModel, disposeModel, type Model } from '../model/model.ts'
import { checkpointSource } from '../model/weights.ts'
import type { Arena } from '../tensor/arena.ts'
import type { Device } from '../tensor/tensor.ts'
import type { StopSignal } from '../worker/protocol.ts'
import { type Grouping, layerImportance } from './importance.ts'
import { choose, type Dimensions, type LayerImportance } from './plan.ts'
import { randomImportance } from './random.ts'
import { taylorImportance } from './taylor.ts'

/** `random` cuts whatever the seed says, `structured` what matters least. */
export const pruneMethods = ['structured', 'random'] as const
/** What `structured` measures: |w * dL/dw| on calibration text, or |w|. */
export const importances = ['taylor', 'magnitude'] as const

export interface PruneSettings {
  method: (typeof pruneMethods)[number]
  ratio: number
  layers: [number, number]
  importance: (typeof importances)[number]
  grouping: Grouping
  seed: number
  signal: StopSignal
}

/** Decides what to keep of the model in `checkpoint`. `calibration` is asked for where the method measures on text. */
export async function makePlan(
  checkpoint: Checkpoint,
  config: LlamaConfig,
  device: Device,
  settings: PruneSettings,
  calibration: () => Promise<MicroBatch>,
): Promise<PruningPlan> {
  const { method, ratio, layers, seed } = settings
  const { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim } = config
  const sizes = { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim }
  const importanceOf =
    method === 'random'
      ? (layer: number) => randomImportance(sizes, layer, seed)
      : await measured(checkpoint, config, device, settings, calibration)
  return {
    method: method === 'random' ? 'random' : settings.importance,
    ratio,
    layers,
    seed,
    source: { name: checkpoint.dir, fingerprint: fingerprint(checkpoint), ...sizes },
    kept: choose(sizes, ratio, layers, importanceOf),
  }
}

async function measured(
  checkpoint: Checkpoint,
  { nf4: _, ...config }: LlamaConfig,
  device: Device,
  { importance, grouping, layers, signal }: PruneSettings,
  calibration: () => Promise<MicroBatch>,
): Promise<(layer: number) => LayerImportance> {
  const sizes: Dimensions = config
  const model = buildModel(
    config,
    device,
    checkpointSource(checkpoint, device, { quantize: 'none', dequantize: true, checkFinite: true }),
  )
  try {
    const scores =
      importance === 'magnitude'
        ? new Map(range(layers).map((layer) => [layer, layerImportance(model.layers[layer]!, sizes, grouping)]))
        : taylor(model, await calibration())
    return (layer) => scores.get(layer)!
  } finally {
    disposeModel(model)
  }

  function taylor(model: Model, text: MicroBatch): Map<number, LayerImportance> {
    const measure = (on: Model, arena: Arena) => taylorImportance(on, arena, text, sizes, layers, grouping, signal)
    const arena = arenaFor(model, measure)
    try {
      return measure(model, arena)
    } finally {
      arena.dispose()
    }
  }
}

const range = ([start, end]: readonly [number, number]): number[] =>
  Array.from({ length: end - start }, (_, i) => start + i)
