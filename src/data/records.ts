import { DataError, messageOf } from '../errors.ts'
import { type Piece, readChunks, splitArray, splitLines, splitText, unreadable } from './lines.ts'

/** Where a record comes from; lines, in Parquet rows, count from 1. */
export interface Place {
  file: string
  line: number
}

export interface DataRecord extends Place {
  value: Record<string, unknown>
}

const maxRecordBytes = 64 * 2 ** 20

/**
 * Reads the records of JSONL files, JSON arrays, Parquet and plain text one at a time; which of these a file is shows in its
 * name and first character. A text file is one record `{ text }`, or several of whole lines where it exceeds 64 MiB. Memory stays
 * bounded by one record, in Parquet by a row group. A bad record comes as the `DataError` that describes it, and reading goes on behind it.
 *
 * @param asText  Files that are not named as JSON are plain text.
 * @throws {DataError} `E_DATA`: a file cannot be read, or has no records.
 */
export async function* readRecords(files: readonly string[], asText: boolean): AsyncGenerator<DataRecord | DataError> {
  for (const file of files) {
    let isEmpty = true
    const records = file.endsWith('.parquet') ? parquetRecords(file) : textRecords(file, asText)
    for await (const record of records) {
      isEmpty = false
      yield record
    }
    if (isEmpty) {
      throw new DataError('E_DATA', `${file} is empty`, {
        file,
        expected: 'at least one record',
        found: 'nothing, or blank lines only',
        remedy: 'leave the file out, or check how it was written',
      })
    }
  }
}

async function* parquetRecords(file: string): AsyncGenerator<DataRecord> {
  const { parquetRows } = await import('./parquet.ts') // takes a while to load, for files that few have
  let line = 1
  try {
    for await (const value of parquetRows(file)) yield { file, line: line++, value }
  } catch (cause) {
    throw unreadable(file, cause)
  }
}

async function* textRecords(file: string, asText: boolean): AsyncGenerator<DataRecord | DataError> {
  for await (const piece of splitFile(file, asText)) {
    const record = piece.kind === 'text' ? textRecord(file, piece) : jsonRecord(file, piece)
    if (record !== undefined) yield record
  }
}

/** Whether a file's name says that it is plain text. */
export const isTextFile = (file: string) => /\.(txt|md)(\.gz)?$/.test(file)

type Kind = 'lines' | 'array' | 'text'

async function* splitFile(file: string, asText: boolean): AsyncGenerator<Piece & { kind: Kind }> {
  const split = { lines: splitLines, array: splitArray, text: splitText }
  try {
    const kind = await kindOf(file, asText)
    for await (const piece of split[kind](readChunks(file), maxRecordBytes)) yield { ...piece, kind }
  } catch (cause) {
    throw unreadable(file, cause)
  }
}

async function kindOf(file: string, asText: boolean): Promise<Kind> {
  const isNamedJson = /\.(jsonl|ndjson|json)(\.gz)?$/.test(file)
  if (isTextFile(file) || (asText && !isNamedJson)) return 'text'
  for await (const chunk of readChunks(file)) {
    const first = chunk.find((byte) => byte > 32)
    if (first !== undefined) return first === 0x5b ? 'array' : 'lines'
  }
  return 'lines'
}

function textRecord(file: string, { line, bytes }: Piece): DataRecord | DataError | undefined {
  const text = decode(file, line, bytes)
  if (text instanceof DataError) return text
  return text.trim() === '' ? undefined : { file, line, value: { text: text.replaceAll('\r\n', '\n') } }
}

/** What helps with training data besides. */
export const orSkip = ", or, where it is data to train on, set onBadLine to 'skip'"

/** Undefined for a blank line. */
function jsonRecord(file: string, { line, bytes }: Piece): DataRecord | DataError | undefined {
  const text = decode(file, line, bytes)
  if (text instanceof DataError) return text
  if (text.trim() === '') return undefined
  const bad = (expected: string, found: string, cause?: unknown) =>
    new DataError('E_DATA', `${file}:${line} is not a record`, {
      file,
      line,
      expected,
      found: `${text.trim().slice(0, 80)} (${found})`,
      remedy: `mend the line${orSkip}`,
      cause,
    })
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return { file, line, value: value as Record<string, unknown> }
    }
    return bad('a JSON object', Array.isArray(value) ? 'an array' : value === null ? 'null' : `a ${typeof value}`)
  } catch (cause) {
    return bad('JSON', messageOf(cause), cause)
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function decode(file: string, line: number, bytes: Buffer | undefined): string | DataError {
  try {
    if (bytes !== undefined) return utf8.decode(bytes)
  } catch (cause) {
    return new DataError('E_DATA', `${file}:${line} is not UTF-8`, {
      file,
      line,
      found: bytes!.toString('utf8').slice(0, 80),
      remedy: `convert the file to UTF-8${orSkip}`,
      cause,
    })
  }
  return new DataError('E_DATA', `${file}:${line} is too long`, {
    file,
    line,
    expected: `at most ${maxRecordBytes} bytes in a record`,
    remedy: `cut the record into several${orSkip}`,
  })
}
