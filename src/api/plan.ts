import { existsSync } from 'node:fs'
import path from 'node:path'
import { quantizedByConfig } from '../formats/bitsandbytes.ts'
import { isGguf } from '../formats/gguf/file.ts'
import { openCheckpoint } from '../formats/huggingFace.ts'
import { readJsonObject } from '../formats/json.ts'
import { readPruning } from '../formats/pruningJson.ts'
import { type AlignmentPlan, planAlignment } from '../memory/alignment.ts'
import { memoryBudget, planWithin } from '../memory/budget.ts'
import { metaModel } from '../memory/measure.ts'
import { countParameters, type MemoryPlan, modelBytes, unprunedConfig } from '../memory/planner.ts'
import { expectedTensors, type LlamaConfig, parseConfig } from '../model/config.ts'
import { type PlanOptions, planCommandOptions } from '../options/index.ts'
import { layersToPrune, uniformConfig } from '../prune/plan.ts'
import { cudaStatus, metaDevice } from '../tensor/device.ts'
import { validate } from '../validate.ts'

export interface ModelPlan {
  /** The model as it is stored, before pruning. */
  original: { parameters: number; bytes: Pick<MemoryPlan['bytes'], 'tables' | 'projections' | 'norms' | 'total'> }
  /** Training on it, or on what `prune` leaves of it. */
  training: MemoryPlan
  /** With `gpus`: aligning all weights of that model, on 1, 2, 4, … and so many GPUs. */
  alignment?: AlignmentPlan[]
}

/**
 * Parameters and bytes of a model and of training it, exact, from its config.json alone: the training step is run on shapes
 * without data.
 * @throws {MemoryError} `E_MEMORY`: it does not fit `memory`, or without that what is free on the GPU that is here
 */
export function plan(options: PlanOptions): ModelPlan {
  const {
    model,
    prune,
    memory,
    recompute,
    offload,
    gpus,
    device: name,
    ...shape
  } = validate(planCommandOptions, options)
  const device = metaDevice(name)
  const config = readConfig(model)
  const small = prune ? uniformConfig(config, prune.ratio, layersToPrune(config.numHiddenLayers, prune.layers)) : config
  const before = unprunedConfig(config)
  const bytes = modelBytes(metaModel(before, { quantize: 'none' }, device))
  const budget = memoryBudget(memory, name !== 'cpu' && cudaStatus() === '')
  return {
    original: {
      parameters: countParameters(before),
      bytes: { ...bytes, total: bytes.tables + bytes.projections + bytes.norms },
    },
    training: planWithin(small, shape, { recompute, offload }, budget, device),
    ...(gpus !== undefined && {
      alignment: doublings(gpus).map((count) =>
        planAlignment(small, shape, { recompute, offload }, count, budget, device),
      ),
    }),
  }
}

/** 1, 2, 4, … and `last`. */
const doublings = (last: number): number[] => [
  ...Array.from({ length: Math.ceil(Math.log2(last)) }, (_, i) => 2 ** i),
  last,
]

/** From the header of a GGUF file, or from a folder in which the weights need not be. */
function readConfig(model: string): LlamaConfig {
  if (isGguf(model)) {
    const { configJson, close } = openCheckpoint(model)
    close()
    return parseConfig(configJson, model)
  }
  const file = path.join(model, 'config.json')
  const pruningFile = path.join(model, 'pruning.json')
  const json = readJsonObject(file)
  const config = parseConfig(json, file, existsSync(pruningFile) ? readPruning(pruningFile) : undefined)
  return { ...config, nf4: quantizedByConfig(json, file, expectedTensors(config).keys()) }
}
