import { existsSync } from 'node:fs'
import path from 'node:path'
import { type Checkpoint, expectTensors, openCheckpoint } from '../formats/huggingFace.ts'
import { readJsonObject } from '../formats/json.ts'
import type { Device } from '../tensor/tensor.ts'
import { expectedTensors, type LlamaConfig, parseConfig } from './config.ts'
import { buildModel, type Model } from './model.ts'
import { checkpointSource, type Quantization } from './weights.ts'

/** A checkpoint whose config is understood and whose weights have the shapes that it says. */
export interface OpenCheckpoint {
  checkpoint: Checkpoint
  config: LlamaConfig
  /** Tensors that are there and not used. */
  warnings: string[]
}

/** Opens a Hugging Face folder, original or pruned, and checks config and shapes; weights are not read yet. */
export function openModelFolder(dir: string): OpenCheckpoint {
  const checkpoint = openCheckpoint(dir)
  const generation = path.join(dir, 'generation_config.json')
  const generationJson = existsSync(generation) ? readJsonObject(generation) : undefined
  const config = parseConfig(checkpoint.configJson, checkpoint.configFile, checkpoint.pruning, generationJson)
  return { checkpoint, config, warnings: expectTensors(checkpoint, expectedTensors(config)) }
}

/** Reads a model's weights onto `device`. */
export function readModel({ checkpoint, config }: OpenCheckpoint, device: Device, quantize: Quantization): Model {
  return buildModel(config, device, checkpointSource(checkpoint, device, { quantize, checkFinite: true }))
}
