import { chatSegments } from '../tokenizer/chatSegments.ts'
import { alpacaPreamble } from '../tokenizer/chatTemplate.ts'
import { bosSegments, type Segment } from '../tokenizer/segments.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import {
  openAiMessages,
  openOrcaMessages,
  optionalStringOf,
  refuse,
  shareGptMessages,
  stringOf,
} from './conversations.ts'
import { type DataRecord, orSkip } from './records.ts'

export type RecordFormat = 'text' | 'prompt-completion' | 'alpaca' | 'messages'

export interface PromptOptions {
  /** What every record is; without it each record's keys decide. */
  format?: RecordFormat | undefined
  /** A line feed after Alpaca's `### Response:`, as Alpaca-LoRA has it; stanford_alpaca has none. Default true. */
  responseNewline?: boolean
}

interface Row {
  format: RecordFormat
  keys: string[]
  segments(record: DataRecord, tokenizer: Tokenizer, responseNewline: boolean): Segment[]
}

/** The first row whose keys a record has says what it is. */
const rows: Row[] = [
  {
    format: 'messages',
    keys: ['messages'],
    segments: (record, tokenizer) => chatSegments(tokenizer, openAiMessages(record)),
  },
  {
    format: 'messages',
    keys: ['conversations'],
    segments: (record, tokenizer) => chatSegments(tokenizer, shareGptMessages(record)),
  },
  { format: 'alpaca', keys: ['instruction', 'output'], segments: alpaca },
  {
    format: 'prompt-completion',
    keys: ['prompt', 'completion'],
    segments: (record, tokenizer) => exchange(tokenizer, stringOf(record, 'prompt'), stringOf(record, 'completion')),
  },
  {
    format: 'messages',
    keys: ['question', 'response'],
    segments: (record, tokenizer) => chatSegments(tokenizer, openOrcaMessages(record)),
  },
  {
    // GSM8K, prompted as lm_eval's gsm8k task does
    format: 'prompt-completion',
    keys: ['question', 'answer'],
    segments: (record, tokenizer) =>
      exchange(tokenizer, `Question: ${stringOf(record, 'question')}\nAnswer:`, ` ${stringOf(record, 'answer')}`),
  },
  {
    format: 'text',
    keys: ['text'],
    segments: (record, tokenizer) => exchange(tokenizer, '', stringOf(record, 'text')),
  },
]

/**
 * A record as the prompt and answers that its format stands for: conversations through the model's chat template, all
 * others with bos where the tokenizer wants one, and with eos after each answer.
 *
 * @throws {DataError} `E_DATA`: no format has these keys, or a value is not usable. `E_TEMPLATE`: see `chatSegments`.
 */
export function recordSegments(
  record: DataRecord,
  tokenizer: Tokenizer,
  { format, responseNewline = true }: PromptOptions = {},
): Segment[] {
  const candidates = rows.filter((row) => format === undefined || row.format === format)
  const row = candidates.find(({ keys }) => keys.every((key) => Object.hasOwn(record.value, key)))
  if (row !== undefined) return row.segments(record, tokenizer, responseNewline)
  return refuse(record, 'its keys fit no format', {
    expected: candidates.map(({ keys }) => keys.join(' + ')).join(', or '),
    found: Object.keys(record.value).join(', ').slice(0, 80) || 'no keys',
    remedy: `rename the keys${orSkip}`,
  })
}

const preambleWithInput =
  'Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.'

/** tatsu-lab/stanford_alpaca's prompt; `system` in place of its first sentence and `history` are LLaMA-Factory's. */
function alpaca(record: DataRecord, tokenizer: Tokenizer, responseNewline: boolean): Segment[] {
  const [instruction, output] = [stringOf(record, 'instruction'), stringOf(record, 'output')]
  const [input, system] = [optionalStringOf(record, 'input'), optionalStringOf(record, 'system')]
  const response = `\n\n### Response:${responseNewline ? '\n' : ''}`
  const preamble = system || (input === '' ? alpacaPreamble : preambleWithInput)
  const history = historyOf(record).flatMap(([question, reply]) => [
    prompt(`\n\n### Instruction:\n${question}${response}`),
    ...answer(tokenizer, reply),
  ])
  const given = input === '' ? '' : `\n\n### Input:\n${input}`
  return [
    ...bosSegments(tokenizer),
    prompt(preamble),
    ...history,
    prompt(`\n\n### Instruction:\n${instruction}${given}${response}`),
    ...answer(tokenizer, output),
  ]
}

function historyOf(record: DataRecord): [string, string][] {
  const { history = [] } = record.value
  if (!Array.isArray(history) || !history.every((turn) => Array.isArray(turn) && turn.length === 2)) {
    refuse(record, 'its history is not usable', { field: 'history', expected: 'a list of [question, answer]' })
  }
  return history.map(([question, reply], i) => [
    stringOf(record, `history[${i}][0]`, question),
    stringOf(record, `history[${i}][1]`, reply),
  ])
}

function exchange(tokenizer: Tokenizer, question: string, reply: string): Segment[] {
  return [...bosSegments(tokenizer), prompt(question), ...answer(tokenizer, reply)]
}

function prompt(text: string): Segment {
  return { text, source: 'data', learnt: false }
}

function answer({ eosId }: Tokenizer, text: string): Segment[] {
  return [{ text, source: 'data', learnt: true }, ...(eosId === undefined ? [] : [{ id: eosId, learnt: true }])]
}
