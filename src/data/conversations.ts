import { DataError, type ErrorDetails } from '../errors.ts'
import type { ChatMessage } from '../tokenizer/chatTemplate.ts'
import { type DataRecord, orSkip } from './records.ts'

type Json = Record<string, unknown>

/** Role names that ShareGPT files use. */
const shareGptRoles: Record<string, ChatMessage['role']> = {
  ...{ human: 'user', user: 'user', User: 'user', prompter: 'user' },
  ...{ gpt: 'assistant', chatgpt: 'assistant', assistant: 'assistant', bing: 'assistant', bard: 'assistant' },
  ...{ model: 'assistant', function_call: 'assistant', system: 'system', observation: 'tool', tool: 'tool' },
}

const roles: Record<string, ChatMessage['role']> = {
  system: 'system',
  user: 'user',
  assistant: 'assistant',
  tool: 'tool',
}

/** `{ messages: [{ role, content, weight? }] }`, as OpenAI and Hugging Face write conversations. */
export function openAiMessages(record: DataRecord): ChatMessage[] {
  const messages = objects(record, 'messages').map((message, i) => {
    if (message.tool_calls !== undefined) {
      refuse(record, 'tool calls are not supported', {
        field: `messages[${i}].tool_calls`,
        remedy: 'write the call into content, as the model is to write it',
      })
    }
    const role = roleOf(record, roles, `messages[${i}].role`, message.role)
    const content = joinParts(record, `messages[${i}].content`, message.content)
    return message.weight === 0 ? { role, content, weight: 0 } : { role, content }
  })
  return inTurns(record, messages)
}

/** `{ conversations: [{ from, value }], system? }` */
export function shareGptMessages(record: DataRecord): ChatMessage[] {
  const turns = objects(record, 'conversations').map((turn, i) => ({
    role: roleOf(record, shareGptRoles, `conversations[${i}].from`, turn.from),
    content: stringOf(record, `conversations[${i}].value`, turn.value),
  }))
  return inTurns(record, [...systemMessage(record, 'system'), ...turns])
}

/** `{ system_prompt?, question, response }` */
export function openOrcaMessages(record: DataRecord): ChatMessage[] {
  return [
    ...systemMessage(record, 'system_prompt'),
    { role: 'user', content: stringOf(record, 'question') },
    { role: 'assistant', content: stringOf(record, 'response') },
  ]
}

/** The record's `field`, or `value` found under that name. */
export function stringOf(record: DataRecord, field: string, value = record.value[field]): string {
  if (typeof value !== 'string')
    refuse(record, 'a text is missing', { field, expected: 'a string', found: kindOf(value) })
  if (/\p{Surrogate}/u.test(value)) {
    refuse(record, 'a text has half of a surrogate pair', {
      field,
      expected: 'whole characters',
      found: value.slice(0, 80),
    })
  }
  return value
}

/** As `stringOf`, but '' where the field is absent or null. */
export function optionalStringOf(record: DataRecord, field: string): string {
  return stringOf(record, field, record.value[field] ?? '')
}

export function refuse(record: DataRecord, reason: string, details: ErrorDetails): never {
  const { file, line } = record
  const remedy = `mend the record${orSkip}`
  throw new DataError('E_DATA', `${file}:${line} cannot be used: ${reason}`, { file, line, remedy, ...details })
}

function systemMessage(record: DataRecord, field: string): ChatMessage[] {
  const content = optionalStringOf(record, field)
  return content === '' ? [] : [{ role: 'system', content }]
}

function objects(record: DataRecord, field: string): Json[] {
  const list = record.value[field]
  const isList = Array.isArray(list) && list.every((item) => typeof item === 'object' && item !== null)
  if (!isList)
    refuse(record, 'a conversation is a list of messages', {
      field,
      expected: 'a list of objects',
      found: kindOf(list),
    })
  return list
}

function roleOf(record: DataRecord, known: typeof roles, field: string, name: unknown): ChatMessage['role'] {
  if (typeof name === 'string' && Object.hasOwn(known, name)) return known[name]!
  return refuse(record, 'a role is unknown', { field, expected: Object.keys(known).join(', '), found: String(name) })
}

/** A content is a string, or a list of parts of which only text can be learnt. */
function joinParts(record: DataRecord, field: string, content: unknown): string {
  if (!Array.isArray(content)) return stringOf(record, field, content)
  const texts = content.map((part, i) => {
    if (part?.type !== 'text')
      refuse(record, 'only text can be learnt', { field: `${field}[${i}]`, found: String(part?.type) })
    return stringOf(record, `${field}[${i}].text`, part.text)
  })
  return texts.join('')
}

/** An optional system message, then user and assistant in turn; tools answer an assistant, who goes on from there. */
function inTurns(record: DataRecord, messages: ChatMessage[]): ChatMessage[] {
  const order = messages.map(({ role }) => role[0]).join('')
  if (!/^s?(ua(t+a)*)+(u|t+)?$/.test(order)) {
    refuse(record, 'the turns are out of order', {
      expected: 'system at most once and first, then user and assistant in turn, with at least one answer',
      found: messages.map(({ role }) => role).join(', ') || 'no message',
    })
  }
  return messages
}

/** What a value is, for messages. */
export function kindOf(value: unknown): string {
  return value === undefined
    ? 'nothing'
    : value === null
      ? 'null'
      : Array.isArray(value)
        ? 'a list'
        : `a ${typeof value}`
}
