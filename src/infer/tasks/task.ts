import type { z } from 'zod'
import { refuse } from '../../data/conversations.ts'
import { dataFiles } from '../../data/files.ts'
import { type DataRecord, readRecords } from '../../data/records.ts'
import { DataError } from '../../errors.ts'
import type { taskOptions } from '../../options/index.ts'
import type { StopSignal } from '../../worker/protocol.ts'
import type { EvaluationOptions } from '../loadedModel.ts'

export type TaskOptions = z.output<typeof taskOptions>

/** Options of `evaluate` that tasks share. */
export type TaskSizes = Pick<EvaluationOptions, 'format' | 'sequenceLength' | 'microBatchSize'>

/** What a model made of a question, and what else is worth a look; a line of the file of predictions. */
export interface Answer {
  right: boolean
  /** Whether it is right when a choice's likelihood is divided by its number of characters. */
  rightNormalized?: boolean
  [detail: string]: unknown
}

/** Puts the questions that records hold to the model. */
export type Ask = (records: readonly DataRecord[], signal: StopSignal) => Answer[] | Promise<Answer[]>

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
 * Refuses a question that has no room in `sequenceLength`.
 * @param lowered options that would make it shorter
 */
export function tooLong(
  record: DataRecord,
  sequenceLength: number,
  { headline, found, lowered }: { headline: string; found: string; lowered: string },
): never {
  return refuse(record, headline, {
    field: 'sequenceLength',
    expected: `at most ${sequenceLength} tokens together`,
    found,
    remedy: `raise sequenceLength, or lower ${lowered}`,
  })
}
