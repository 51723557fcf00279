import type { DataPreview } from '../data/preview.ts'
import type { MergeResult } from '../lora/difference.ts'
import type { Loading } from '../model/open.ts'
import {
  type AlignOptions,
  alignCommandOptions,
  type EvaluateOptions,
  type ExportOptions,
  evaluateCommandOptions,
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
import { orNone, validate } from '../validate.ts'
import { requireSignal, runInWorker } from '../worker/client.ts'
import { type EvaluationOf, loadModel } from './loadModel.ts'

/** Stops the work, where it can be stopped. */
interface Abortable {
  signal?: AbortSignal
}

/**
 * Prunes a model to a smaller one in the folder `output`: its weights cut, and `pruning.json`, which recovery needs.
 * @throws {LoramError} see docs/errors.md
 */
export async function prune(options: PruneOptions & Abortable): Promise<void> {
  const { signal, ...rest } = orNone(options)
  return runInWorker('prune', validate(pruneCommandOptions, rest), { signal })
}

/**
 * Continual pre-training of a pruned model on running text: all its weights but the output head.
 * @param options `onEvent` is called with every step
 */
export async function align(
  options: AlignOptions & Abortable & { onEvent?: (event: RunEvent) => void },
): Promise<void> {
  const { signal, onEvent, ...rest } = orNone(options)
  return runInWorker('align', validate(alignCommandOptions, rest), { signal, ...(onEvent && { onEvent }) })
}

/** Brings an adapter trained on a pruned model to the dimensions of the original one. */
export async function recover(options: RecoverOptions): Promise<void> {
  return runInWorker('recover', validate(recoverCommandOptions, options))
}

/**
 * Writes a model with an adapter merged into its weights, in the dtype that they have. Into NF4, which rounds the update to
 * 4 bits, only with `force`: then the logits of the result are compared with those of the adapter unmerged.
 * @throws {LoramError} see docs/errors.md
 */
export async function merge(options: MergeOptions): Promise<MergeResult> {
  return runInWorker('merge', validate(mergeCommandOptions, options))
}

/**
 * Writes a model and an adapter as GGUF files for llama.cpp and Ollama, with a Modelfile, into the folder `output`.
 * @throws {LoramError} see docs/errors.md
 */
export async function exportModel(options: ExportOptions): Promise<void> {
  return runInWorker('exportModel', validate(exportCommandOptions, options))
}

/**
 * How training would see a data set: its first examples with what of them is learnt, and counts over all of it.
 * @param options `onEvent` is given notices
 */
export async function previewData(
  options: PreviewOptions & Abortable & { onEvent?: (event: RunEvent) => void },
): Promise<DataPreview> {
  const { signal, onEvent, ...rest } = orNone(options)
  return runInWorker('previewData', validate(previewOptions, rest), { signal, ...(onEvent && { onEvent }) })
}

/**
 * Perplexity of a model on data, or its score in a task, and what loading it took: see {@link loadModel} for several
 * evaluations of one model.
 */
export async function evaluate<Options extends InferenceOptions & EvaluateOptions>(
  options: Options & Abortable,
): Promise<EvaluationOf<Options> & { loading: Loading }> {
  const { signal, ...all } = orNone(options)
  requireSignal(signal)
  const resolved = validate(evaluateCommandOptions, all) // all of it before the model is loaded
  const { model, adapter, quantize, quantizeTables, device, ...evaluation } = resolved
  const loaded = await loadModel(model, { adapter, quantize, quantizeTables, device })
  try {
    const result = (await loaded.evaluate({ ...evaluation, ...(signal && { signal }) })) as EvaluationOf<Options>
    return { ...result, loading: loaded.loading }
  } finally {
    await loaded.close()
  }
}
