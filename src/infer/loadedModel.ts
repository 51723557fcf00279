import type { z } from 'zod'
import { firstOf } from '../data/encode.ts'
import { corpusExamples, loadExamples } from '../data/index.ts'
import { AbortError, ConfigError } from '../errors.ts'
import { readAdapter } from '../formats/peft.ts'
import { attachAdapter, requireBase } from '../lora/attach.ts'
import type { Model } from '../model/model.ts'
import { openModelFolder, readModel } from '../model/open.ts'
import type { evaluateOptions, generateOptions, inferenceOptions } from '../options.ts'
import { openDevice } from '../tensor/device.ts'
import { chatSegments } from '../tokenizer/chatSegments.ts'
import { encodeSegments } from '../tokenizer/segments.ts'
import { loadTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts'
import { type Context, type StopSignal, stopIfAborted } from '../worker/protocol.ts'
import { generateText } from './generate.ts'
import { type Evaluation, evaluateExamples } from './perplexity.ts'

/** A model that is ready to compute, with its tokenizer. */
export interface LoadedModel {
  model: Model
  tokenizer: Tokenizer
}

/** Reads a model, and an adapter that it uses unmerged. */
export function loadModelFolder({
  model: dir,
  adapter,
  quantize,
  device,
}: z.output<typeof inferenceOptions>): LoadedModel {
  const source = openModelFolder(dir)
  const tokenizer = loadTokenizer(dir)
  const trained = adapter === undefined ? undefined : readAdapter(adapter)
  if (trained) requireBase(trained, source.checkpoint)
  const model = readModel(source, openDevice(device), quantize)
  if (trained) attachAdapter(model, trained)
  return { model, tokenizer }
}

/** Perplexity of data: of the answers of records, of every token of running text. */
export async function evaluateData(
  { model, tokenizer }: LoadedModel,
  { data, format, sequenceLength, microBatchSize, limit }: z.output<typeof evaluateOptions>,
  signal: StopSignal,
): Promise<Evaluation> {
  const dataset =
    format === 'text'
      ? await corpusExamples(data, tokenizer, sequenceLength, { signal })
      : await loadExamples(data, tokenizer, { sequenceLength, ...(format !== 'auto' && { format }) }, { signal })
  try {
    const examples = firstOf(dataset.examples, limit)
    const result = evaluateExamples(model, examples, { microBatchSize, sequenceLength }, signal)
    if (!result) throw new AbortError('evaluate was aborted')
    return result
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

/** Generates text after a prompt; every piece is emitted as it comes. */
export function generateFrom(
  { model, tokenizer }: LoadedModel,
  { prompt, chat, ...options }: z.output<typeof generateOptions>,
  { emit, signal }: Context<string>,
): Generation {
  const ids = promptIds(tokenizer, prompt, chat)
  const most = model.config.maxPositionEmbeddings
  if (ids.length === 0 || ids.length + options.maxNewTokens > most) {
    throw new ConfigError('E_CONFIG', 'the prompt and the new tokens do not fit the model', {
      field: 'maxNewTokens',
      expected: `a prompt, and at most ${most} tokens together`,
      found: `${ids.length} + ${options.maxNewTokens}`,
    })
  }
  const began = performance.now()
  const tokenIds: number[] = []
  const pieces: string[] = []
  for (const piece of generateText(model, tokenizer, ids, options, tokenIds)) {
    pieces.push(piece)
    emit(piece)
    stopIfAborted(signal, 'generate')
  }
  const tokensPerSecond = (1000 * tokenIds.length) / (performance.now() - began)
  return { text: pieces.join(''), tokenIds, promptTokens: ids.length, tokensPerSecond }
}

function promptIds(tokenizer: Tokenizer, prompt: string, chat: boolean): number[] {
  if (chat) {
    const segments = chatSegments(tokenizer, [{ role: 'user', content: prompt }], { addGenerationPrompt: true })
    return encodeSegments(tokenizer, segments).flatMap(({ ids }) => Array.from(ids))
  }
  const bos = tokenizer.addBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : []
  return [...bos, ...tokenizer.encode(prompt)]
}
