import { existsSync } from 'node:fs'
import path from 'node:path'
import { type Checkpoint, expectTensors, openCheckpoint } from '../formats/huggingFace.ts'
import { readJsonObject } from '../formats/json.ts'
import { allOrNothing, type Device } from '../tensor/tensor.ts'
import type { Layer } from './block.ts'
import { expectedTensors, type LlamaConfig, parseConfig } from './config.ts'
import { buildLayer, buildModel, disposeLayer, disposeModel, heldBytes, type Model } from './model.ts'
import { checkpointSource, type Holding } from './weights.ts'

/** Whether the layers of another model all lie in memory, or are read one by one each time that they are needed. */
export const holds = ['resident', 'streamed'] as const
export type Hold = (typeof holds)[number]

/** A checkpoint whose config is understood and whose weights have the shapes that it says. */
export interface OpenCheckpoint {
  checkpoint: Checkpoint
  config: LlamaConfig
  /** Tensors that are there and not used. */
  warnings: string[]
}

/** Opens a Hugging Face folder, original or pruned, or a GGUF file, and checks config and shapes; weights are not read yet. */
export function openModelFolder(dir: string): OpenCheckpoint {
  const checkpoint = openCheckpoint(dir)
  const generation = path.join(dir, 'generation_config.json')
  const generationJson = existsSync(generation) ? readJsonObject(generation) : undefined
  const config = parseConfig(checkpoint.configJson, checkpoint.configFile, checkpoint.pruning, generationJson)
  const warnings = expectTensors(checkpoint, expectedTensors(config))
  // config.json may say what the weights were trained in, and not what they were saved in
  const { dtype } = checkpoint.tensors.get('model.embed_tokens.weight')!
  return { checkpoint, config: { ...config, dtype, nf4: quantizedIn(checkpoint) }, warnings }
}

const quantizedIn = ({ tensors }: Checkpoint): ReadonlyMap<string, boolean> =>
  new Map(Array.from(tensors).flatMap(([name, { nf4 }]) => (nf4 ? [[name, nf4.nestedOffset !== undefined]] : [])))

/** What reading a model's weights took: time, and the memory that they are held in. */
export interface Loading {
  seconds: number
  bytes: number
}

/**
 * Reads a model's weights onto `device`. Beside what they are held in, that takes the memory of one matrix as it is stored.
 * After an error the device has its memory back.
 */
export function readModel(
  { checkpoint, config }: OpenCheckpoint,
  device: Device,
  holding: Holding,
): { model: Model; loading: Loading; dispose(): void } {
  const began = performance.now()
  const source = checkpointSource(checkpoint, device, { ...holding, checkFinite: true })
  const model = allOrNothing(() => buildModel(config, device, source))
  const loading = { seconds: (performance.now() - began) / 1000, bytes: heldBytes(model) }
  return { model, loading, dispose: () => disposeModel(model) }
}

/**
 * A model of which one layer at a time is in memory: each is read when it is asked for, in place of the one before. For
 * passes that go through the layers in order, of models larger than memory.
 */
export function streamModel(
  { checkpoint, config }: OpenCheckpoint,
  device: Device,
  holding: Holding & { dequantize?: boolean },
): { model: Model; dispose(): void } {
  const source = checkpointSource(checkpoint, device, { ...holding, checkFinite: true })
  const rest = buildModel({ ...config, layers: [] }, device, source)
  const layers = new Array<Layer>(config.numHiddenLayers)
  let held: { index: number; layer: Layer } | undefined
  const release = () => {
    if (held) disposeLayer(held.layer)
    held = undefined
  }
  const layerAt = (index: number): Layer => {
    if (held?.index === index) return held.layer
    release()
    held = { index, layer: buildLayer(config, index, source) }
    return held.layer
  }
  for (const i of config.layers.keys()) Object.defineProperty(layers, i, { get: () => layerAt(i) })
  const dispose = () => {
    release()
    disposeModel(rest)
  }
  return { model: { ...rest, config, layers }, dispose }
}
