import { evaluationBatches, type MicroBatch } from '../data/batches.ts'
import { corpusExamples, loadExamples } from '../data/index.ts'
import { permutation } from '../data/random.ts'
import { ConfigError, PlanError } from '../errors.ts'
import type { PruningPlan } from '../formats/pruningJson.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import type { ResolvedOptions } from '../options.ts'
import type { Device } from '../tensor/tensor.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { StopSignal } from '../worker/protocol.ts'
import { makePlan } from './methods.ts'
import { layersToPrune } from './plan.ts'
import { writePruned } from './slice.ts'

type PruneOptions = NonNullable<ResolvedOptions['prune']>

/**
 * Prunes the model `source` and writes the small one to the folder `dir`.
 * @param trainingData measures importance where no calibration text is given
 * @throws {PlanError} `E_PLAN`: the model is pruned already
 * @throws {AbortError} the signal, between two layers; nothing is written
 */
export async function pruneModel(
  source: OpenCheckpoint,
  tokenizer: () => Tokenizer,
  options: PruneOptions & { seed: number; trainingData?: string | string[] | undefined },
  device: Device,
  dir: string,
  signal: StopSignal,
): Promise<PruningPlan> {
  const { checkpoint, config } = source
  if (checkpoint.pruning) {
    throw new PlanError('E_PLAN', 'the model is pruned already', {
      file: checkpoint.dir,
      remedy: 'prune the original, or leave prune out to train on this one',
    })
  }
  const layers = layersToPrune(config.numHiddenLayers, options.layers)
  const plan = await makePlan(checkpoint, config, device, { ...options, layers, signal }, () =>
    calibration(tokenizer(), options),
  )
  writePruned(checkpoint, plan, dir, signal)
  return plan
}

/** Windows of text that importance is measured on, all in one micro-batch, every token a target. */
async function calibration(
  tokenizer: Tokenizer,
  { calibration, trainingData, seed }: PruneOptions & { seed: number; trainingData?: string | string[] | undefined },
): Promise<MicroBatch> {
  const { data, samples, sequenceLength } = calibration
  const dataset = data
    ? await corpusExamples(data, tokenizer, sequenceLength)
    : await loadExamples(required(trainingData), tokenizer, { sequenceLength, trainOn: 'all' })
  const { examples } = dataset
  const chosen = Array.from(permutation(examples.length, seed).subarray(0, samples), (i) => examples.at(i))
  dataset.close()
  return evaluationBatches(chosen, { microBatchSize: samples, sequenceLength }).next().value!
}

function required<T>(data: T | undefined): T {
  if (data !== undefined) return data
  throw new ConfigError('E_CONFIG', 'Taylor importance is measured on text', {
    field: 'prune.calibration.data',
    remedy: 'name calibration text, or use importance magnitude or method random',
  })
}
