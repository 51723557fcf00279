import { existsSync } from 'node:fs'
import path from 'node:path'
import type { Dataset } from '../data/cache.ts'
import type { Examples } from '../data/encode.ts'
import { corpusExamples, loadExamples } from '../data/index.ts'
import { describeStatistics } from '../data/statistics.ts'
import { firstBeforeOthers, isFirst, ruling, type SharedContext } from '../distributed/group.ts'
import { together } from '../distributed/join.ts'
import { AbortError, ConfigError } from '../errors.ts'
import { fingerprint } from '../formats/huggingFace.ts'
import { writeAdapter } from '../formats/peft.ts'
import { formatPruning, type PruningPlan, planDigest } from '../formats/pruningJson.ts'
import type { Adapter } from '../lora/adapter.ts'
import { recoverAdapter } from '../lora/recover.ts'
import { factorsOf, type ScaleTrial, scaleAdapter, searchScale } from '../lora/scale.ts'
import { describeLoading } from '../memory/bytes.ts'
import type { MemoryPlan } from '../memory/planner.ts'
import { withSavings } from '../memory/savings.ts'
import { type OpenCheckpoint, openModelFolder, readModel } from '../model/open.ts'
import { addon } from '../native/load.ts'
import type { ResolvedOptions } from '../options/index.ts'
import { pruneModel } from '../prune/prune.ts'
import { describeDevice, openDevice } from '../tensor/device.ts'
import { disposing } from '../tensor/disposing.ts'
import type { Device } from '../tensor/tensor.ts'
import { loadTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts'
import type { Context } from '../worker/protocol.ts'
import { align as alignTo } from './align.ts'
import type { RunEvent, Stage } from './events.ts'
import { followFolder, openRunFolder, type RunFolder } from './runFolder.ts'
import {
  checkOptions,
  checkOriginalFits,
  finishingPlan,
  memoryPlan,
  positionNotices,
  ratioForMemory,
  trainingShape,
} from './runPlans.ts'
import { sampleAnswers } from './samples.ts'
import { openSinks } from './sinks.ts'
import { type Material, trainAdapter } from './trainAdapter.ts'

export interface TrainResult {
  /** The folder of the PEFT adapter for the original model. */
  adapter: string
  metrics: {
    steps: number
    /** Of the last evaluation that was kept; absent without evaluation data. */
    evaluation?: { step: number; loss: number; perplexity: number }
    /** With `recover.scale: 'auto'`: the factors that were taken, and the large model's loss with them. */
    recovery?: ScaleTrial
    plan: MemoryPlan
    seconds: number
  }
}

/**
 * The whole of LoRAM: prune, align, train on the small model, recover. What is finished of an earlier run is used again
 * when it resumes. Where the environment names several processes, they align and train together; rank 0 does the rest.
 */
export async function trainLoRAMRun(options: ResolvedOptions, context: Context<RunEvent>): Promise<TrainResult> {
  const device = openDevice(options.device)
  return together(device, context, (shared) => runStages(options, device, shared))
}

async function runStages(
  options: ResolvedOptions,
  device: Device,
  context: SharedContext<RunEvent>,
): Promise<TrainResult> {
  const began = performance.now()
  const { group } = context
  const source = openModelFolder(options.model)
  checkOptions(options, source, device)
  const tokenizer = loadTokenizer(options.model)
  const place = group.size === 1 ? describeDevice(device) : `${group.size} times ${describeDevice(device)}`
  const lengths = {
    'data.sequenceLength': options.data.sequenceLength,
    'align.sequenceLength': options.align?.sequenceLength,
  }
  const notices = [`computing on ${place}`, ...source.warnings, ...positionNotices(source, lengths)]
  const folder = isFirst(group)
    ? openRunFolder(options, (message) => notices.push(message))
    : followFolder(path.join(options.output, 'run'))
  const sinks = isFirst(group) ? openSinks(options, folder.at('tensorboard')) : []
  const emit = (event: RunEvent) => {
    folder.log(event)
    for (const sink of sinks) sink.write(event)
    context.emit(event)
  }
  const datasets: Dataset[] = []
  const run: Run = { options, device, tokenizer, folder, datasets, context: { ...context, emit } }
  try {
    for (const message of notices) emit({ type: 'notice', message })
    folder.remember('model', { loram: addon().version, fingerprint: fingerprint(source.checkpoint) })
    const examples = await firstBeforeOthers(group, () => loadData(run))
    const [train, held] = datasets.map(({ digest }) => digest)
    const preserved = await firstBeforeOthers(group, () => preservedText(run))
    const preserve = preserved && { preserve: preserved.digest }
    folder.remember('data', { train, eval: held ?? null, ...preserve })
    const pruned = await pruneStage(run, source)
    const plan = memoryPlan(run, pruned)
    folder.remember('tables', { tables: plan.quantizeTables ? 'nf4' : 'none' })
    emit({ type: 'plan', plan })
    const finishing = finishingPlan(run, source)
    if (options.recover.scale === 'auto') checkOriginalFits(run, source, plan)
    const small = await alignStage(run, pruned)
    const material = { ...examples, preserved: preserved?.examples }
    const { adapter, progress } = trainStage(run, small, material, plan, source)
    const recovery = recoverStage(run, adapter, small, source, material, plan, finishing)
    const { best, step: steps } = progress
    const evaluation = best && { ...best, perplexity: Math.exp(best.loss) }
    const seconds = (performance.now() - began) / 1000
    return {
      adapter: options.output,
      metrics: { steps, ...(evaluation && { evaluation }), ...(recovery && { recovery }), plan, seconds },
    }
  } finally {
    folder.close()
    for (const owner of [...datasets, ...sinks]) owner.close()
  }
}

/** What the stages of a run share. */
interface Run {
  options: ResolvedOptions
  device: Device
  tokenizer: Tokenizer
  folder: RunFolder
  /** What is loaded, to be closed at the end. */
  datasets: Dataset[]
  context: SharedContext<RunEvent>
}

/** Does a stage whose result is a folder, unless the folder is there. */
async function folderStage(
  { folder, context }: Run,
  stage: Stage,
  name: string,
  work: (dir: string) => Promise<void>,
): Promise<OpenCheckpoint> {
  const dir = folder.at(name)
  const status = ruling(context.group, existsSync(dir)) ? 'reused' : 'finished'
  if (status === 'finished') {
    context.emit({ type: 'stage', stage, status: 'started' })
    await work(dir)
  }
  context.group.barrier()
  context.emit({ type: 'stage', stage, status })
  if (context.signal.aborted) throw new AbortError(`aborted after ${stage}`, { remedy: 'resume to go on from there' })
  return openModelFolder(dir)
}

async function pruneStage(run: Run, source: OpenCheckpoint): Promise<OpenCheckpoint> {
  const { prune, seed, data } = run.options
  if (!prune) return source
  return folderStage(run, 'prune', 'pruned', async (dir) => {
    if (!isFirst(run.context.group)) return
    const ratio = ratioForMemory(run, prune, source)
    await pruneModel(
      source,
      () => run.tokenizer,
      { ...prune, ...(ratio !== undefined && { ratio }), seed, training: data },
      run.device,
      dir,
      run.context.signal,
    )
  })
}

async function alignStage(run: Run, pruned: OpenCheckpoint): Promise<OpenCheckpoint> {
  const { align, prune, model, seed, resume } = run.options
  if (!align) return pruned
  return folderStage(run, 'align', 'aligned', async (dir) => {
    const { examples } = await firstBeforeOthers(run.context.group, () =>
      keep(run, corpusExamples(align.data, run.tokenizer, align.sequenceLength, loadContext(run))),
    )
    const teacher = align.distill && { teacher: prune && model, ...align.distill }
    const settings = { ...align, ...(teacher && { distill: teacher }), seed, resume }
    alignTo(pruned, examples, settings, run.device, run.folder.at('alignCheckpoints'), dir, run.context)
  })
}

/** Trains on the small model, which is gone from the device afterwards, also after an error. */
function trainStage(
  { options, device, tokenizer, folder, context }: Run,
  small: OpenCheckpoint,
  examples: Material,
  plan: MemoryPlan,
  original: OpenCheckpoint,
): ReturnType<typeof trainAdapter> {
  const { quantize } = options
  const { quantizeTables } = plan
  const rotate = options.prune?.rotate
  const rotating = rotate && { ...rotate, original, plan: small.checkpoint.pruning! }
  context.emit({ type: 'stage', stage: 'train', status: 'started' })
  try {
    return disposing((own) => {
      const { model, loading } = own(() => readModel(small, device, { quantize, quantizeTables }))
      context.emit({ type: 'notice', message: `loaded ${describeLoading(loading)}` })
      const sample = (step: number) => {
        if (!isFirst(context.group)) return
        for (const answer of sampleAnswers(model, tokenizer, examples.eval ?? examples.train, options.log.samples))
          context.emit({ type: 'sample', stage: 'train', step, ...answer })
      }
      const trained = trainAdapter(model, examples, options, plan, folder.at('checkpoints'), context, sample, {
        rotating,
      })
      context.emit({ type: 'stage', stage: 'train', status: 'finished' })
      return trained
    })
  } catch (error) {
    throw withSavings(error, small.config, trainingShape(options), plan, device)
  }
}

/** Brings the adapter to the original's dimensions and writes both. */
function recoverStage(
  run: Run,
  adapter: Adapter,
  { checkpoint }: OpenCheckpoint,
  original: OpenCheckpoint,
  examples: Material,
  plan: MemoryPlan,
  finishing: MemoryPlan | undefined,
): ScaleTrial | undefined {
  const { options, context } = run
  const { pruning } = checkpoint
  const trained = { ...adapter, base: fingerprint(checkpoint) }
  const write = isFirst(context.group) ? writeAdapter : () => {}
  if (!pruning) {
    write(options.output, trained)
    return undefined
  }
  context.emit({ type: 'stage', stage: 'recover', status: 'started' })
  const { fill, scale } = options.recover
  const recovered = options.prune?.rotate
    ? { ...adapter, base: pruning.source.fingerprint, baseModel: pruning.source.name }
    : recoverAdapter(prunedAdapter(run, trained, pruning, write), pruning, fill)
  const best = scale === 'auto' ? scaleOnHeldOut(run, recovered, original, examples.eval!, plan) : undefined
  const scaled = scaleAdapter(recovered, factorsOf(best?.scale ?? (scale as number)))
  write(options.output, finishing ? finish(run, scaled, original, examples, finishing) : scaled)
  context.emit({ type: 'stage', stage: 'recover', status: 'finished' })
  return best
}

/** Trains a recovered adapter on the original for some steps more. */
function finish(
  { options, device, folder, context }: Run,
  recovered: Adapter,
  original: OpenCheckpoint,
  examples: Material,
  plan: MemoryPlan,
): Adapter {
  return disposing((own) => {
    const holding = { quantize: options.quantize, quantizeTables: plan.quantizeTables }
    const { model } = own(() => readModel(original, device, holding))
    const { steps, learningRate } = options.recover.finish!
    const train = { ...options.train, learningRate, epochs: steps, maxSteps: steps, warmupSteps: Math.ceil(steps / 10) }
    const at = folder.at('finishCheckpoints')
    const special = { finishing: recovered }
    const { adapter } = trainAdapter(model, examples, { ...options, train }, plan, at, context, () => {}, special)
    return { ...recovered, modules: adapter.modules }
  })
}

function prunedAdapter({ folder }: Run, trained: Adapter, pruning: PruningPlan, write: typeof writeAdapter): Adapter {
  const small = { ...trained, pruning: planDigest(pruning) }
  write(folder.at('prunedAdapter'), small, { 'pruning.json': formatPruning(pruning) })
  return small
}

/** Tries factors on the recovered update with the large model, held as training held the small one. */
function scaleOnHeldOut(
  { options, device, context }: Run,
  adapter: Adapter,
  original: OpenCheckpoint,
  held: Examples,
  { quantizeTables }: MemoryPlan,
): ScaleTrial {
  const { train, data, quantize } = options
  const sizes = { microBatchSize: train.microBatchSize, sequenceLength: data.sequenceLength }
  const { model, dispose } = readModel(original, device, { quantize, quantizeTables })
  try {
    return searchScale(model, adapter, held, sizes, context.signal, ({ scale: { attention, mlp }, loss }) => {
      const factors = `attention times ${attention}, mlp times ${mlp}`
      context.emit({ type: 'notice', message: `recovered update, ${factors}: held-out loss ${loss.toFixed(4)}` })
    })
  } finally {
    dispose()
  }
}

async function loadData(run: Run): Promise<{ train: Examples; eval?: Examples }> {
  const { train, eval: held, format, evalSplit, cache: _, ...rest } = run.options.data
  const load = async (source: string | string[], split: number): Promise<Dataset> => {
    const options = { ...rest, evalSplit: split, ...(format !== 'auto' && { format }) }
    const dataset = await keep(run, loadExamples(source, run.tokenizer, options, loadContext(run)))
    notice(run, `${[source].flat().join(', ')}: ${describeStatistics(dataset.statistics)}`)
    return dataset
  }
  const trained = await load(train, evalSplit)
  if (held) return { train: trained.examples, eval: (await load(held, 0)).examples }
  if (evalSplit === 0) return { train: trained.examples }
  if (trained.held.length === 0) throw nothingHeld(trained.examples.length, evalSplit)
  return { train: trained.examples, eval: trained.held }
}

async function preservedText(run: Run): Promise<Dataset | undefined> {
  const { train, data } = run.options
  if (!train.preserve) return undefined
  return keep(run, corpusExamples(train.preserve.data, run.tokenizer, data.sequenceLength, loadContext(run)))
}

function nothingHeld(examples: number, evalSplit: number): ConfigError {
  return new ConfigError('E_CONFIG', 'the split holds out nothing', {
    field: 'data.evalSplit',
    expected: 'a part that some of the examples fall into',
    found: `${evalSplit} of ${examples} examples`,
    remedy: 'raise evalSplit, or name evaluation data',
  })
}

async function keep({ datasets }: Run, loading: Promise<Dataset>): Promise<Dataset> {
  const dataset = await loading
  datasets.push(dataset)
  return dataset
}

const notice = ({ context }: Run, message: string) => context.emit({ type: 'notice', message })

const loadContext = (run: Run) => ({
  cache: run.options.data.cache,
  notice: (message: string) => notice(run, message),
  signal: run.context.signal,
})
