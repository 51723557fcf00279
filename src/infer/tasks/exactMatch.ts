import { refuse } from '../../data/conversations.ts'
import { recordSegments } from '../../data/prompts.ts'
import type { DataRecord } from '../../data/records.ts'
import { bosSegments, type Segment } from '../../tokenizer/segments.ts'
import type { LoadedModel } from '../loadedModel.ts'
import { greedyTexts } from './greedy.ts'
import { type Ask, shotsText, type TaskOptions, type TaskSizes } from './task.ts'

/** Generates the last answer of a record of any training format, and compares. */
export async function exactMatch(loaded: LoadedModel, task: TaskOptions, sizes: TaskSizes): Promise<Ask> {
  const { tokenizer } = loaded
  const { format } = sizes
  const split = (record: DataRecord) =>
    splitAnswer(recordSegments(record, tokenizer, format === 'auto' ? {} : { format }))
  const pattern = task.answer === undefined ? undefined : new RegExp(task.answer)
  const shots = await shotsText(task, (record) => {
    const { before, answer } = split(record)
    if (!isConversation(before)) return textOf(before) + answer
    return refuse(record, 'a conversation cannot come solved before other questions', {
      expected: 'prompt and completion, question and answer, or Alpaca',
      remedy: 'leave task.shots out where questions follow a chat template',
    })
  })
  return (records, signal) => {
    const questions = records.map((record) => ({ record, ...split(record) }))
    const prompts = questions.map(({ record, before }) => {
      return { record, segments: shots ? [...bosSegments(tokenizer), data(shots + textOf(before))] : before }
    })
    return greedyTexts(loaded, prompts, task, sizes, signal).map((generated, i) => {
      const { record, answer } = questions[i]!
      const expected = extract(answer, pattern)
      if (expected === undefined) return noAnswer(record, task.answer!, answer)
      const found = extract(generated, pattern)
      return { right: found === expected, found, expected, generated }
    })
  }
}

const noAnswer = (record: DataRecord, expected: string, answer: string): never =>
  refuse(record, 'its own answer does not match', { field: 'task.answer', expected, found: answer.slice(-80) })

/**
 * The answer in `text`: what `pattern` finds, its first group or else all of it; without a pattern the whole text. How a
 * number is written does not matter: `$1,200.` is `1200`. `undefined`: the pattern finds nothing.
 */
export function extract(text: string, pattern: RegExp | undefined): string | undefined {
  const match = pattern ? pattern.exec(text) : [text]
  if (!match) return undefined
  const answer = (match[1] ?? match[0]!).trim()
  const number = answer.replace(/[$,]/g, '').replace(/\.$/, '')
  return /^[-+]?\d*\.?\d+$/.test(number) ? String(Number(number)) : answer
}

/** What comes before a record's last answer, and the text of that. */
function splitAnswer(segments: readonly Segment[]): { before: Segment[]; answer: string } {
  const end = segments.findLastIndex(({ learnt }) => learnt) + 1
  const begin = segments.findLastIndex(({ learnt }, i) => i < end && !learnt) + 1
  return { before: segments.slice(0, begin), answer: textOf(segments.slice(begin, end)) }
}

const data = (text: string): Segment => ({ text, source: 'data', learnt: false })

const isConversation = (segments: readonly Segment[]): boolean =>
  segments.some((segment) => 'source' in segment && segment.source === 'template')

const textOf = (segments: readonly Segment[]): string =>
  segments.map((segment) => ('text' in segment ? segment.text : '')).join('')
