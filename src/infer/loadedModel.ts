import type { z } from 'zod'
import { firstOf } from '../data/encode.ts'
import { dataFiles } from '../data/files.ts'
import { corpusExamples, loadExamples } from '../data/index.ts'
import { isTextFile } from '../data/records.ts'
import type { DataStatistics } from '../data/statistics.ts'
import { AbortError, ConfigError } from '../errors.ts'
import { readAdapter } from '../formats/peft.ts'
import { type Pairs, pairsOf, requireBase, usePairs } from '../lora/attach.ts'
import type { Model } from '../model/model.ts'
import { type Loading, openModelFolder, readModel } from '../model/open.ts'
import type { evaluateOptions, inferenceOptions } from '../options/index.ts'
import { openDevice } from '../tensor/device.ts'
import { allOrNothing } from '../tensor/tensor.ts'
import { loadTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts'
import { type Context, type StopSignal, stopIfAborted } from '../worker/protocol.ts'
import { type GenerateOptions, generateDefaults, generateText } from './generate.ts'
import { type Evaluation, evaluateExamples } from './perplexity.ts'
import { isIds, type Prompt, promptIds } from './prompt.ts'

/** A model that is ready to compute, with its tokenizer. */
export interface LoadedModel {
  model: Model
  tokenizer: Tokenizer
  loading: Loading
}

/** Reads a model, and an adapter that it uses unmerged. */
export function loadModelFolder({ adapter, ...base }: z.output<typeof inferenceOptions>): LoadedModel {
  const { loaded, adapters } = loadWithAdapters(base, adapter === undefined ? [] : [adapter])
  for (const pairs of adapters) usePairs(loaded.model, pairs)
  return loaded
}

/** Reads a model, and the pairs of adapters for it. */
export function loadWithAdapters(
  { model: dir, device, ...holding }: Omit<z.output<typeof inferenceOptions>, 'adapter'>,
  adapterDirs: readonly string[],
): { loaded: LoadedModel; adapters: Pairs[] } {
  const source = openModelFolder(dir)
  const tokenizer = loadTokenizer(dir)
  const trained = adapterDirs.map(readAdapter)
  for (const adapter of trained) requireBase(adapter, source.checkpoint)
  return allOrNothing(() => {
    const { model, loading } = readModel(source, openDevice(device), holding)
    return { loaded: { model, tokenizer, loading }, adapters: trained.map((adapter) => pairsOf(model, adapter)) }
  })
}

/** Options of an evaluation, with its length decided. */
export type EvaluationOptions = Omit<z.output<typeof evaluateOptions>, 'sequenceLength' | 'task'> & {
  sequenceLength: number
}

const usualLength = 512

/**
 * Decides how long evaluated sequences are.
 * @throws {ConfigError} `E_CONFIG`: the model has fewer positions, beyond which its predictions mean nothing
 */
export function sized(
  { model }: LoadedModel,
  { sequenceLength, ...options }: Omit<z.output<typeof evaluateOptions>, 'task'>,
): EvaluationOptions {
  const most = model.config.maxPositionEmbeddings
  if (sequenceLength !== undefined && sequenceLength > most) {
    throw new ConfigError('E_CONFIG', 'the model has not so many positions', {
      field: 'sequenceLength',
      expected: `at most ${most}, max_position_embeddings in config.json`,
      found: String(sequenceLength),
      remedy: 'lower sequenceLength',
    })
  }
  return { ...options, sequenceLength: sequenceLength ?? Math.min(usualLength, most) }
}

/** With what `sequenceLength` took from records: of all the data, whatever `limit` evaluates of them. */
export type DataEvaluation = Evaluation & Pick<DataStatistics, 'truncated' | 'masked'>

/** Perplexity of data: of the answers of records, of every token of running text. */
export async function evaluateData(
  { model, tokenizer }: LoadedModel,
  { data, format, sequenceLength, microBatchSize, limit }: EvaluationOptions,
  signal: StopSignal,
): Promise<DataEvaluation> {
  const isText = format === 'text' || (format === 'auto' && dataFiles(data).every(isTextFile))
  const dataset = isText
    ? await corpusExamples(data, tokenizer, sequenceLength, { signal })
    : await loadExamples(data, tokenizer, { sequenceLength, ...(format !== 'auto' && { format }) }, { signal })
  try {
    const examples = firstOf(dataset.examples, limit)
    const result = evaluateExamples(model, examples, { microBatchSize, sequenceLength }, signal)
    if (!result) throw new AbortError('evaluate was aborted')
    const { truncated, masked } = dataset.statistics
    return { ...result, truncated, masked }
  } finally {
    dataset.close()
  }
}

export interface Generation {
  text: string
  tokenIds: number[]
  promptTokens: number
  tokensPerSecond: number
}

/** New tokens of an answer in a conversation, where no number is given. */
const usualAnswer = 512

/**
 * Generates text after a prompt; every piece is emitted as it comes.
 * @throws {ConfigError} `E_CONFIG`: the prompt is empty, or the model has no room for it and the new tokens
 */
export function generateFrom(
  { model, tokenizer }: LoadedModel,
  { prompt, ...options }: GenerateOptions & { prompt: Prompt },
  { emit, signal }: Context<string>,
): Generation {
  const ids = promptIds(tokenizer, prompt)
  const most = model.config.maxPositionEmbeddings
  const room = most - ids.length
  const usual = typeof prompt === 'string' || isIds(prompt) ? generateDefaults.maxNewTokens : usualAnswer
  const maxNewTokens = options.maxNewTokens ?? Math.max(1, Math.min(usual, room))
  if (ids.length === 0 || maxNewTokens > room) {
    throw new ConfigError('E_CONFIG', 'the prompt and the new tokens do not fit the model', {
      field: 'maxNewTokens',
      expected: `a prompt, and at most ${most} tokens together`,
      found: `${ids.length} + ${maxNewTokens}`,
    })
  }
  const began = performance.now()
  const tokenIds: number[] = []
  const pieces: string[] = []
  for (const piece of generateText(model, tokenizer, ids, { ...options, maxNewTokens }, tokenIds)) {
    pieces.push(piece)
    emit(piece)
    stopIfAborted(signal, 'generate')
  }
  const tokensPerSecond = (1000 * tokenIds.length) / (performance.now() - began)
  return { text: pieces.join(''), tokenIds, promptTokens: ids.length, tokensPerSecond }
}
