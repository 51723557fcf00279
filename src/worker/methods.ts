import path from 'node:path'
import type { z } from 'zod'
import { type DataPreview, previewDataset } from '../data/preview.ts'
import { exportGguf } from '../export/exportGguf.ts'
import { requireNoModel, requireVacant } from '../formats/atomic.ts'
import { readAdapter, writeAdapter } from '../formats/peft.ts'
import { readPruning } from '../formats/pruningJson.ts'
import type { GenerateOptions } from '../infer/generate.ts'
import {
  evaluateData,
  type Generation,
  generateFrom,
  type LoadedModel,
  loadModelFolder,
  sized,
} from '../infer/loadedModel.ts'
import type { Evaluation } from '../infer/perplexity.ts'
import type { Prompt } from '../infer/prompt.ts'
import type { CompletionEvent, CompletionRequest, Scheduler } from '../infer/scheduler.ts'
import { openScheduler, type ServedModels } from '../infer/serving.ts'
import { scoreTask, type TaskScore } from '../infer/tasks/index.ts'
import { logitDifference, type MergeResult } from '../lora/difference.ts'
import { writeMerged } from '../lora/merge.ts'
import { recoverAdapter } from '../lora/recover.ts'
import { factorsOf, scaleAdapter } from '../lora/scale.ts'
import { type Loading, openModelFolder } from '../model/open.ts'
import type * as options from '../options/index.ts'
import { pruneModel } from '../prune/prune.ts'
import { openDevice } from '../tensor/device.ts'
import { loadTokenizer } from '../tokenizer/tokenizer.ts'
import { alignRun } from '../train/alignRun.ts'
import type { RunEvent } from '../train/events.ts'
import { type TrainResult, trainLoRAMRun } from '../train/run.ts'
import type { Context } from './protocol.ts'

type Options<Schema extends z.ZodType> = z.output<Schema>

/** The model that this thread holds between requests. */
let loaded: LoadedModel | undefined
/** The same with an engine that several requests share. */
let scheduler: Scheduler | undefined

/** Everything that runs in a worker thread; options are validated before they come here. */
export const methods = {
  trainLoRAM: (given: Options<typeof options.trainLoRAMOptions>, context: Context<RunEvent>): Promise<TrainResult> =>
    trainLoRAMRun(given, context),

  async prune(given: Options<typeof options.pruneCommandOptions>, { signal }: Context<RunEvent>): Promise<void> {
    requireVacant(given.output)
    const source = openModelFolder(given.model)
    await pruneModel(source, () => loadTokenizer(given.model), given, openDevice(given.device), given.output, signal)
  },

  align: (given: Options<typeof options.alignCommandOptions>, context: Context<RunEvent>): Promise<void> =>
    alignRun(given, context),

  previewData: (
    given: Options<typeof options.previewOptions>,
    { emit, signal }: Context<RunEvent>,
  ): Promise<DataPreview> => previewDataset(given, (message) => emit({ type: 'notice', message }), signal),

  async recover(given: Options<typeof options.recoverCommandOptions>, _context: Context<never>): Promise<void> {
    const file = given.pruning.endsWith('.json') ? given.pruning : path.join(given.pruning, 'pruning.json')
    const plan = readPruning(file)
    requireNoModel(given.output)
    const recovered = recoverAdapter(readAdapter(given.adapter), plan, given.fill)
    writeAdapter(given.output, scaleAdapter(recovered, factorsOf(given.scale)))
  },

  async merge(
    { model, adapter: adapterDir, output, force }: Options<typeof options.mergeCommandOptions>,
    _context: Context<never>,
  ): Promise<MergeResult> {
    const { checkpoint, config } = openModelFolder(model)
    const adapter = readAdapter(adapterDir)
    writeMerged(checkpoint, adapter, output, { force })
    return config.nf4!.size > 0 ? { logitDifference: logitDifference(model, adapter, output) } : {}
  },

  async exportModel(given: Options<typeof options.exportCommandOptions>, _context: Context<never>): Promise<void> {
    exportGguf(given)
  },

  async load(given: Options<typeof options.inferenceOptions>, _context: Context<never>): Promise<Loading> {
    loaded = loadModelFolder(given)
    return loaded.loading
  },

  async evaluate(
    { task, ...given }: Options<typeof options.evaluateOptions>,
    { signal }: Context<never>,
  ): Promise<Evaluation | TaskScore> {
    const options = sized(loaded!, given)
    return task ? scoreTask(loaded!, task, options, signal) : evaluateData(loaded!, options, signal)
  },

  generate: async (given: GenerateOptions & { prompt: Prompt }, context: Context<string>): Promise<Generation> =>
    generateFrom(loaded!, given, context),

  async serve(given: ServedModels, _context: Context<never>): Promise<{ contextLength: number }> {
    scheduler = openScheduler(given)
    return { contextLength: scheduler.contextLength }
  },

  complete: (given: readonly CompletionRequest[], context: Context<CompletionEvent>): Promise<void> =>
    scheduler!.complete(given, context),
}
