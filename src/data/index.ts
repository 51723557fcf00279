import { DataError } from '../errors.ts'
import { encodeSegments } from '../tokenizer/segments.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { neverAborted, type StopSignal, stopIfAborted } from '../worker/protocol.ts'
import { cached, type Dataset, uncached } from './cache.ts'
import { contentHash, SeenContents, splitPoint } from './content.ts'
import { makeExample, type TrainOn } from './encode.ts'
import { dataFiles } from './files.ts'
import { Wrapper } from './packing.ts'
import { type PromptOptions, recordSegments } from './prompts.ts'
import { type DataRecord, readRecords } from './records.ts'
import { count, type DataStatistics, noStatistics } from './statistics.ts'
import type { TokenFileWriter } from './tokenFile.ts'

export interface LoadOptions extends PromptOptions {
  /** Tokens; what is longer loses its end. */
  sequenceLength: number
  /** Default `answers`. Text records are learnt whole. */
  trainOn?: TrainOn
  /** Whether a line that cannot be used is an error or only counted. Default `fail`. */
  onBadLine?: 'fail' | 'skip'
  /** Leaves out records that say what an earlier one said. Default false. */
  deduplicate?: boolean
  /** Part of the examples that is held out for evaluation, chosen by the hash of what is asked. Default 0. */
  evalSplit?: number
}

/** How loading goes about it; the result is the same. */
export interface LoadContext {
  /** Keeps the tokens for the next time. Default false. */
  cache?: boolean
  notice?: (message: string) => void
  signal?: StopSignal
}

type Source = string | readonly string[]

/**
 * Reads, prompts and encodes training or evaluation data: JSONL, JSON arrays, Parquet or plain text (`dataFiles` says what
 * `source` may name). The tokens lie in a file, and memory holds one record and 12 bytes an example. Close the result.
 *
 * @throws {DataError} `E_DATA`: a file or line cannot be used, or nothing is left to learn. `E_TEMPLATE`: the chat template
 *   refuses a conversation. Both name file and line.
 * @throws {AbortError} the signal, between two records
 */
export async function loadExamples(
  source: Source,
  tokenizer: Tokenizer,
  options: LoadOptions,
  context: LoadContext = {},
): Promise<Dataset> {
  const files = dataFiles(source)
  const decisive = withDefaults(options)
  const encode = (writer: TokenFileWriter) => encodeRecords(files, source, tokenizer, decisive, writer, context)
  return load(files, { kind: 'records', ...decisive }, tokenizer, context, encode)
}

/** Everything that decides how records are encoded, and nothing else. */
const withDefaults = ({
  sequenceLength,
  trainOn = 'answers',
  onBadLine = 'fail',
  deduplicate = false,
  evalSplit = 0,
  format,
  responseNewline = true,
}: LoadOptions) => ({ sequenceLength, trainOn, onBadLine, deduplicate, evalSplit, format, responseNewline })

/**
 * Reads running text for alignment or perplexity: documents, each closed with eos, one after another, cut into sequences of
 * `sequenceLength` tokens in which everything is learnt. Otherwise as {@link loadExamples}.
 *
 * @throws {DataError} `E_DATA`: a file or line cannot be used, or has no `text`.
 */
export async function corpusExamples(
  source: Source,
  tokenizer: Tokenizer,
  sequenceLength: number,
  context: LoadContext = {},
): Promise<Dataset> {
  const files = dataFiles(source)
  const encode = (writer: TokenFileWriter) => encodeText(files, source, tokenizer, sequenceLength, writer, context)
  return load(files, { kind: 'text', sequenceLength }, tokenizer, context, encode)
}

function load(
  files: readonly string[],
  options: object,
  { fingerprint }: Tokenizer,
  { cache = false, notice = () => {} }: LoadContext,
  encode: (writer: TokenFileWriter) => Promise<DataStatistics>,
): Promise<Dataset> {
  return cache ? cached(files, { tokenizer: fingerprint, ...options }, notice, encode) : uncached(encode)
}

const reportMilliseconds = 10_000

/** The records of `files`; says now and then how many there were. */
async function* recordsOf(
  files: readonly string[],
  asText: boolean,
  { signal = neverAborted, notice = () => {} }: LoadContext,
): AsyncGenerator<DataRecord | DataError> {
  let records = 0
  let reported = performance.now()
  for await (const record of readRecords(files, asText)) {
    stopIfAborted(signal, 'loading data')
    yield record
    records++
    if (performance.now() - reported < reportMilliseconds) continue
    reported = performance.now()
    notice(`${records.toLocaleString('en-US')} records read`)
  }
}

async function encodeRecords(
  files: readonly string[],
  source: Source,
  tokenizer: Tokenizer,
  { sequenceLength, trainOn, onBadLine, deduplicate, evalSplit, ...prompts }: ReturnType<typeof withDefaults>,
  writer: TokenFileWriter,
  context: LoadContext,
): Promise<DataStatistics> {
  const statistics = { ...noStatistics }
  const seen = deduplicate ? new SeenContents() : undefined
  let firstError: DataError | undefined
  for await (const record of recordsOf(files, prompts.format === 'text', context)) {
    try {
      encodeRecord(record)
    } catch (error) {
      if (!(error instanceof DataError)) throw error
      const located = record instanceof DataError ? error : locate(error, record)
      if (onBadLine === 'fail') throw located
      firstError ??= located
      statistics.badLines++
    }
  }
  if (statistics.examples === statistics.held) throw nothingLearnt(source, statistics, firstError)
  return statistics

  function encodeRecord(record: DataRecord | DataError): void {
    if (record instanceof DataError) throw record
    const segments = recordSegments(record, tokenizer, prompts)
    if (seen && !seen.add(contentHash(segments))) {
      statistics.duplicates++
      return
    }
    const runs = encodeSegments(tokenizer, segments)
    const length = runs.reduce((sum, { ids }) => sum + ids.length, 0)
    const example = makeExample(runs, trainOn, sequenceLength)
    if (!count(statistics, example)) return
    const isHeld = evalSplit > 0 && splitPoint(segments) < evalSplit
    writer.add(example, isHeld)
    if (isHeld) statistics.held++
    if (segments.every((segment) => !segment.learnt || 'id' in segment || segment.text.trim() === ''))
      statistics.empty++
    if (length > sequenceLength) {
      statistics.truncated++
      statistics.truncatedTokens += length - sequenceLength
    }
  }
}

async function encodeText(
  files: readonly string[],
  source: Source,
  tokenizer: Tokenizer,
  sequenceLength: number,
  writer: TokenFileWriter,
  context: LoadContext,
): Promise<DataStatistics> {
  const statistics = { ...noStatistics }
  const wrapper = new Wrapper(sequenceLength, (example) => {
    count(statistics, example)
    writer.add(example, false)
  })
  for await (const record of recordsOf(files, true, context)) {
    if (record instanceof DataError) throw record
    for (const { ids } of encodeSegments(tokenizer, recordSegments(record, tokenizer, { format: 'text' })))
      wrapper.add(ids)
  }
  wrapper.end()
  if (statistics.examples === 0) throw nothingLearnt(source, statistics)
  return statistics
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

function nothingLearnt(source: Source, { masked, held, badLines }: DataStatistics, cause?: DataError): DataError {
  return new DataError('E_DATA', `${[source].flat().join(', ')} leaves nothing to learn`, {
    expected: 'at least one example with an answer within the sequence length',
    found: `${masked} records without anything to learn, ${held} held out, ${badLines} bad lines`,
    remedy: 'raise the sequence length, or check format and trainOn against the records',
    cause,
  })
}
