import type { DataPreview } from '../data/preview.ts'
import type { MergeResult } from '../lora/difference.ts'
import type { Loading } from '../model/open.ts'
import {
  type AlignOptions,
  alignCommandOptions,
  type EvaluateOptions,
  type ExportOptions,
  exportCommandOptions,
  type InferenceOptions,
  type MergeOptions,
  mergeCommandOptions,
  type PreviewOptions,
  type PruneOptions,
  previewOptions,
  pruneCommandOptions,
  type RecoverOptions,
  recoverCommandOptions,
} from '../options/index.ts'
import type { RunEvent } from '../train/events.ts'
import { validate } from '../validate.ts'
import { runInWorker } from '../worker/client.ts'
import { type EvaluationOf, loadModel } from './loadModel.ts'

/** Stops the work, where it can be stopped. */
interface Abortable {
  signal?: AbortSignal
}

/**
 * Prunes a model to a smaller one in the folder `output`: its weights cut, and `pruning.json`, which recovery needs.
 * @throws {LoramError} see docs/errors.md
 */
export function prune({ signal, ...options }: PruneOptions & Abortable): Promise<void> {
  return runInWorker('prune', validate(pruneCommandOptions, options), { signal })
}

/**
 * Continual pre-training of a pruned model on running text: all its weights but the output head.
 * @param options `onEvent` is called with every step
 */
export function align({
  signal,
  onEvent,
  ...options
}: AlignOptions & Abortable & { onEvent?: (event: RunEvent) => void }): Promise<void> {
  return runInWorker('align', validate(alignCommandOptions, options), { signal, ...(onEvent && { onEvent }) })
}

/** Brings an adapter trained on a pruned model to the dimensions of the original one. */
export function recover(options: RecoverOptions): Promise<void> {
  return runInWorker('recover', validate(recoverCommandOptions, options))
}

/**
 * Writes a model with an adapter merged into its weights, in the dtype that they have. Into NF4, which rounds the update to
 * 4 bits, only with `force`: then the logits of the result are compared with those of the adapter unmerged.
 * @throws {LoramError} see docs/errors.md
 */
export function merge(options: MergeOptions): Promise<MergeResult> {
  return runInWorker('merge', validate(mergeCommandOptions, options))
}

/**
 * Writes a model and an adapter as GGUF files for llama.cpp and Ollama, with a Modelfile, into the folder `output`.
 * @throws {LoramError} see docs/errors.md
 */
export function exportModel(options: ExportOptions): Promise<void> {
  return runInWorker('exportModel', validate(exportCommandOptions, options))
}

/**
 * How training would see a data set: its first examples with what of them is learnt, and counts over all of it.
 * @param options `onEvent` is given notices
 */
export function previewData({
  signal,
  onEvent,
  ...options
}: PreviewOptions & Abortable & { onEvent?: (event: RunEvent) => void }): Promise<DataPreview> {
  return runInWorker('previewData', validate(previewOptions, options), { signal, ...(onEvent && { onEvent }) })
}

/**
 * Perplexity of a model on data, or its score in a task, and what loading it took: see {@link loadModel} for several
 * evaluations of one model.
 */
export async function evaluate<Options extends InferenceOptions & EvaluateOptions>({
  model,
  adapter,
  quantize,
  quantizeTables,
  device,
  ...options
}: Options & Abortable): Promise<EvaluationOf<Options> & { loading: Loading }> {
  const loaded = await loadModel(model, { adapter, quantize, quantizeTables, device })
  try {
    const evaluation = (await loaded.evaluate(options as EvaluateOptions)) as EvaluationOf<Options>
    return { ...evaluation, loading: loaded.loading }
  } finally {
    await loaded.close()
  }
}
