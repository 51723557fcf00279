import type { z } from 'zod'
import { refuse } from '../../data/conversations.ts'
import { dataFiles } from '../../data/files.ts'
import { type DataRecord, readRecords } from '../../data/records.ts'
import { DataError } from '../../errors.ts'
import type { evaluateOptions, taskOptions } from '../../options/index.ts'
import { encodeSegments, type Segment } from '../../tokenizer/segments.ts'
import { generateDefaults, generateText } from '../generate.ts'
import type { LoadedModel } from '../loadedModel.ts'

export type TaskOptions = z.output<typeof taskOptions>

/** Options of `evaluate` that tasks share. */
export type TaskSizes = Pick<z.output<typeof evaluateOptions>, 'format' | 'sequenceLength' | 'microBatchSize'>

/** What a model made of a question, and what else is worth a look; a line of the file of predictions. */
export interface Answer {
  right: boolean
  /** Whether it is right when a choice's likelihood is divided by its number of characters. */
  rightNormalized?: boolean
  [detail: string]: unknown
}

/** Puts the question that a record holds to the model. */
export type Ask = (record: DataRecord) => Answer | Promise<Answer>

/**
 * The first `limit` records of `source`.
 * @throws {DataError} `E_DATA`: one of them cannot be read
 */
export async function firstRecords(source: string | readonly string[], limit?: number): Promise<DataRecord[]> {
  const records: DataRecord[] = []
  for await (const record of readRecords(dataFiles(source), false)) {
    if (record instanceof DataError) throw record
    records.push(record)
    if (records.length === limit) break
  }
  return records
}

/** Solved questions that come before every question, with a blank line after each, as lm-evaluation-harness has it. */
export async function shotsText(
  { shots, shotCount }: TaskOptions,
  solved: (record: DataRecord) => string,
): Promise<string> {
  if (shots === undefined) return ''
  return (await firstRecords(shots, shotCount)).map((record) => `${solved(record)}\n\n`).join('')
}

/**
 * The likeliest text after the question that `record` puts, up to the first of `stop`.
 * @throws {DataError} `E_DATA`: question and answer may be longer than `sequenceLength`
 */
export function greedyText(
  { model, tokenizer }: LoadedModel,
  record: DataRecord,
  segments: readonly Segment[],
  { maxNewTokens = 256, stop = [] }: Pick<TaskOptions, 'maxNewTokens' | 'stop'>,
  { sequenceLength }: TaskSizes,
): string {
  const prompt = encodeSegments(tokenizer, segments).flatMap(({ ids }) => ids)
  if (prompt.length + maxNewTokens > sequenceLength) {
    refuse(record, 'the question and its answer are too long', {
      field: 'sequenceLength',
      expected: `at most ${sequenceLength} tokens together`,
      found: `${prompt.length} and maxNewTokens ${maxNewTokens}`,
      remedy: 'raise sequenceLength, or lower task.maxNewTokens or task.shotCount',
    })
  }
  const options = { ...generateDefaults, maxNewTokens, stop }
  return Array.from(generateText(model, tokenizer, prompt, options)).join('')
}
