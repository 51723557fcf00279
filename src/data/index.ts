import { DataError } from '../errors.ts'
import { encodeSegments } from '../tokenizer/segments.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { countTargets, type Example, makeExample, type TrainOn } from './encode.ts'
import { dataFiles } from './files.ts'
import { Wrapper } from './packing.ts'
import { type PromptOptions, recordSegments } from './prompts.ts'
import { readRecords } from './records.ts'

export interface LoadOptions extends PromptOptions {
  /** Tokens; what is longer loses its end. */
  sequenceLength: number
  /** Default `answers`. Text records are learnt whole. */
  trainOn?: TrainOn
  /** Whether a line that cannot be used is an error or only counted. Default `fail`. */
  onBadLine?: 'fail' | 'skip'
}

export interface DataStatistics {
  examples: number
  /** Records left out because nothing of them would be learnt, for example because the prompt alone is too long. */
  dropped: number
  /** Examples that were longer than `sequenceLength`, and the tokens they lost by it. */
  truncated: number
  truncatedTokens: number
  tokens: number
  targets: number
  /** Lines skipped under `onBadLine: 'skip'`. */
  badLines: number
}

export interface Examples {
  examples: Example[]
  statistics: DataStatistics
}

/**
 * Reads, prompts and encodes training or evaluation data: JSONL, JSON arrays or plain text (`dataFiles` says what `source`
 * may name).
 *
 * @throws {DataError} `E_DATA`: a file or line cannot be used, or nothing is left to learn. `E_TEMPLATE`: the chat template
 *   refuses a conversation. Both name file and line.
 */
export async function loadExamples(
  source: string | readonly string[],
  tokenizer: Tokenizer,
  { sequenceLength, trainOn = 'answers', onBadLine = 'fail', ...prompts }: LoadOptions,
): Promise<Examples> {
  const statistics = { ...noStatistics }
  const examples: Example[] = []
  let firstError: DataError | undefined
  for await (const record of readRecords(dataFiles(source), prompts.format === 'text')) {
    try {
      if (record instanceof DataError) throw record
      const runs = encodeSegments(tokenizer, recordSegments(record, tokenizer, prompts))
      const length = runs.reduce((sum, { ids }) => sum + ids.length, 0)
      const example = makeExample(runs, trainOn, sequenceLength)
      const isLearnt = count(statistics, example)
      if (isLearnt) examples.push(example)
      if (isLearnt && length > sequenceLength) {
        statistics.truncated++
        statistics.truncatedTokens += length - sequenceLength
      }
    } catch (error) {
      if (!(error instanceof DataError)) throw error
      const located = record instanceof DataError ? error : locate(error, record)
      if (onBadLine === 'fail') throw located
      firstError ??= located
      statistics.badLines++
    }
  }
  if (examples.length === 0) throw nothingLearnt(source, statistics, firstError)
  return { examples, statistics }
}

/**
 * Reads running text for alignment or perplexity: documents, each closed with eos, one after another, cut into sequences of
 * `sequenceLength` tokens in which everything is learnt.
 *
 * @throws {DataError} `E_DATA`: a file or line cannot be used, or has no `text`.
 */
export async function corpusExamples(
  source: string | readonly string[],
  tokenizer: Tokenizer,
  sequenceLength: number,
): Promise<Examples> {
  const statistics = { ...noStatistics }
  const wrapper = new Wrapper(sequenceLength)
  for await (const record of readRecords(dataFiles(source), true)) {
    if (record instanceof DataError) throw record
    for (const { ids } of encodeSegments(tokenizer, recordSegments(record, tokenizer, { format: 'text' })))
      wrapper.add(ids)
  }
  wrapper.end()
  for (const example of wrapper.examples) count(statistics, example)
  if (wrapper.examples.length === 0) throw nothingLearnt(source, statistics)
  return { examples: wrapper.examples, statistics }
}

const noStatistics: DataStatistics = {
  examples: 0,
  dropped: 0,
  truncated: 0,
  truncatedTokens: 0,
  tokens: 0,
  targets: 0,
  badLines: 0,
}

/** False for an example that is dropped because it teaches nothing. */
function count(statistics: DataStatistics, { ids, targets }: Example): boolean {
  const learnt = countTargets(targets)
  if (learnt === 0) {
    statistics.dropped++
    return false
  }
  statistics.examples++
  statistics.tokens += ids.length
  statistics.targets += learnt
  return true
}

/** Errors of templates do not know which record they are about. */
function locate(error: DataError, { file, line }: { file: string; line: number }): DataError {
  if (error.details.file !== undefined) return error
  const { line: templateLine, ...details } = error.details
  const field = templateLine === undefined ? details.field : `${details.field}, line ${templateLine}`
  return new DataError(error.code, `${file}:${line} cannot be used with the chat template`, {
    ...details,
    ...(field !== undefined && { field }),
    file,
    line,
    cause: error,
  })
}

function nothingLearnt(
  source: string | readonly string[],
  { dropped, badLines }: DataStatistics,
  cause?: DataError,
): DataError {
  return new DataError('E_DATA', `${[source].flat().join(', ')} leaves nothing to learn`, {
    expected: 'at least one example with an answer within the sequence length',
    found: `${dropped} records without anything to learn, ${badLines} bad lines`,
    remedy: 'raise the sequence length, or check format and trainOn against the records',
    cause,
  })
}
