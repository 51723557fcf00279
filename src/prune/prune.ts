import type { Dataset } from '../data/cache.ts'
import type { Example } from '../data/encode.ts'
import { corpusExamples, type LoadContext, loadExamples } from '../data/index.ts'
import { permutation } from '../data/random.ts'
import { ConfigError, PlanError } from '../errors.ts'
import { fingerprint } from '../formats/huggingFace.ts'
import type { KeptLayer, PruningPlan } from '../formats/pruningJson.ts'
import { parseCount } from '../memory/bytes.ts'
import { countParameters } from '../memory/planner.ts'
import type { LlamaConfig } from '../model/config.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import type { ResolvedOptions } from '../options/index.ts'
import type { Device } from '../tensor/tensor.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { StopSignal } from '../worker/protocol.ts'
import { chooseWithin, cutRatio } from './budget.ts'
import type { Allocation } from './importance.ts'
import { cutsStructures, defaultCriterion, defaultRatios, needsText, type PruneMethod } from './methods.ts'
import { choose, chooseCounts, dimensionsOf, type LayerImportance, layersToPrune, uniformConfig } from './plan.ts'
import { randomImportance } from './random.ts'
import { writePruned } from './slice.ts'
import { type Cut, writeSparse } from './sparse.ts'
import { structuredImportance } from './structured.ts'

type PruneOptions = NonNullable<ResolvedOptions['prune']> & {
  seed: number
  /** What the run trains on, and how that is read. */
  training?: ResolvedOptions['data']
}

/**
 * Prunes the model `source` and writes the small one to the folder `dir`.
 * @param options `training` measures importance where no calibration text is given
 * @throws {PlanError} `E_PLAN`: the model is pruned already
 * @throws {AbortError} the signal, between two layers; nothing is written
 */
export async function pruneModel(
  source: OpenCheckpoint,
  tokenizer: () => Tokenizer,
  options: PruneOptions,
  device: Device,
  dir: string,
  signal: StopSignal,
): Promise<PruningPlan> {
  const { checkpoint } = source
  if (checkpoint.pruning) {
    throw new PlanError('E_PLAN', 'the model is pruned already', {
      file: checkpoint.dir,
      remedy: 'prune the original, or leave prune out to train on this one',
    })
  }
  return cutsStructures(options.method)
    ? pruneStructures(source, tokenizer, options, device, dir, signal)
    : pruneWeights(source, tokenizer, options, device, dir, signal)
}

type Arguments = Parameters<typeof pruneModel>

/** Cuts channels and heads: the model gets narrower. */
async function pruneStructures(...[source, tokenizer, options, device, dir, signal]: Arguments): Promise<PruningPlan> {
  const { checkpoint, config } = source
  const { method, criterion = defaultCriterion(method), grouping = 'aligned', allocation = 'uniform', seed } = options
  const layers = layersToPrune(config.numHiddenLayers, options.layers)
  const atRandom = (layer: number) => randomImportance(config, layer, seed)
  keep(config, options, layers, allocation, atRandom) // what cannot be is refused before importance is measured
  const text = await calibrationText(tokenizer, options)
  const scores = criterion && structuredImportance(source, device, { criterion, grouping, layers, signal }, text)
  const importanceOf = (layer: number) => scores?.get(layer) ?? atRandom(layer)
  const kept = keep(config, options, layers, allocation, importanceOf)
  const ratio = options.ratio ?? cutRatio(config, kept)
  const core = options.rotate && coreOf(kept, config, options.rotate.core, importanceOf)
  const plan: PruningPlan = {
    ...{ method: criterion ?? 'random', ratio, layers, seed, source: originOf(source), kept },
    ...(core && { core }),
  }
  writePruned(checkpoint, plan, dir, signal)
  return plan
}

function keep(
  config: LlamaConfig,
  { method, ratio = defaultRatios[method], targetParams }: PruneOptions,
  layers: [number, number],
  allocation: Allocation,
  importanceOf: (layer: number) => LayerImportance,
): KeptLayer[] {
  if (targetParams === undefined && allocation === 'uniform') return choose(config, ratio, layers, importanceOf)
  const parameters =
    targetParams === undefined
      ? countParameters(uniformConfig(config, ratio, layers))
      : parseCount(targetParams, 'prune.targetParams')
  return chooseWithin(config, parameters, layers, allocation, importanceOf)
}

/** The most important of what is kept: `share` of all structures, or all that is kept where that is less. */
function coreOf(
  kept: readonly KeptLayer[],
  { intermediateSize, numKeyValueHeads }: LlamaConfig,
  share: number,
  importanceOf: (layer: number) => LayerImportance,
): KeptLayer[] {
  return kept.flatMap(({ layer, channels, kvHeads }) =>
    chooseCounts([layer, layer + 1], importanceOf, () => ({
      channels: Math.min(channels.length, Math.round(share * intermediateSize)),
      kvHeads: Math.min(kvHeads.length, Math.round(share * numKeyValueHeads)),
    })),
  )
}

/** Sets single weights to zero: all shapes stay. */
async function pruneWeights(...[source, tokenizer, options, device, dir, signal]: Arguments): Promise<PruningPlan> {
  const { config } = source
  const { method, criterion = defaultCriterion(method)!, seed } = options
  const { pattern, ratio, cut } = sparseCut(options)
  if ('m' in cut) requireGroups(config, cut.m)
  const layers = layersToPrune(config.numHiddenLayers, options.layers ?? [0, config.numHiddenLayers])
  const text = await calibrationText(tokenizer, options)
  const plan: PruningPlan = { method: criterion, ratio, layers, pattern, seed, source: originOf(source), kept: [] }
  writeSparse(source, plan, { criterion, cut, signal }, text, device, dir)
  return plan
}

const originOf = ({ checkpoint, config }: OpenCheckpoint): PruningPlan['source'] => ({
  name: checkpoint.dir,
  fingerprint: fingerprint(checkpoint),
  ...dimensionsOf(config),
})

function sparseCut({ method, pattern = '4:8', ratio = defaultRatios[method] }: PruneOptions): {
  pattern: NonNullable<PruningPlan['pattern']>
  ratio: number
  cut: Cut
} {
  if (method === 'unstructured') return { pattern: method, ratio, cut: { ratio } }
  const [n, m] = pattern.split(':').map(Number) as [number, number]
  return { pattern, ratio: n / m, cut: { n, m } }
}

function requireGroups({ hiddenSize, numAttentionHeads, headDim, intermediateSize }: LlamaConfig, m: number): void {
  const uneven = [hiddenSize, numAttentionHeads * headDim, intermediateSize].find((inputs) => inputs % m !== 0)
  if (uneven === undefined) return
  throw new ConfigError('E_CONFIG', 'rows do not divide into groups of neighbours', {
    field: 'prune.pattern',
    expected: `rows of a multiple of ${m}`,
    found: String(uneven),
    remedy: 'use a pattern of smaller groups, or the method unstructured',
  })
}

/** The references' calibration: LLM-Pruner's for structures, SparseGPT's and Wanda's for single weights. */
const windowsFor = (method: PruneMethod) =>
  cutsStructures(method) ? { samples: 10, sequenceLength: 64 } : { samples: 128, sequenceLength: 2048 }

/** Windows of text, chosen by the seed, that importance is measured on; every token is a target. */
async function calibrationText(tokenizer: () => Tokenizer, options: PruneOptions): Promise<Example[]> {
  const { method, criterion = defaultCriterion(method), calibration = {}, training, seed } = options
  if (!needsText(criterion)) return []
  const { samples, sequenceLength } = windowsFor(method)
  const length = calibration.sequenceLength ?? sequenceLength
  const context = { cache: training?.cache ?? false }
  const dataset = calibration.data
    ? await corpusExamples(calibration.data, tokenizer(), length, context)
    : await trainingText(required(training), tokenizer(), length, context)
  const { examples } = dataset
  const order = permutation(examples.length, seed).subarray(0, calibration.samples ?? samples)
  const chosen = Array.from(order, (i) => examples.at(i))
  dataset.close()
  return chosen
}

/** All of what is trained on, questions too. */
function trainingText(
  { train, format, onBadLine }: ResolvedOptions['data'],
  tokenizer: Tokenizer,
  sequenceLength: number,
  context: LoadContext,
): Promise<Dataset> {
  const options = { ...(format !== 'auto' && { format }), onBadLine, sequenceLength, trainOn: 'all' } as const
  return loadExamples(train, tokenizer, options, context)
}

function required<T>(data: T | undefined): T {
  if (data !== undefined) return data
  throw new ConfigError('E_CONFIG', 'the criterion is measured on text', {
    field: 'prune.calibration.data',
    remedy: 'name calibration text, or use the criterion magnitude or the method random',
  })
}
