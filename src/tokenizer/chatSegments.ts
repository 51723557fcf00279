import { DataError } from '../errors.ts'
import { type ChatMessage, renderChat } from './chatTemplate.ts'
import { bosSegments, type Segment } from './segments.ts'
import type { Tokenizer } from './tokenizer.ts'

/** A conversation whose contents are place-holders: what the template writes between them, and how much of it is learnt. */
interface Skeleton {
  /** Which message stands in each place. A template may drop a message or move it. */
  order: number[]
  /** One more than places. `learntHead` closes the answer before it, `learntTail` opens the one behind it; in characters. */
  between: { text: string; learntHead: number; learntTail: number }[]
  /** Places whose answer gets an eos, because the template closes it with no token of its own. */
  lacksEnd: boolean[]
}

interface ChatOptions {
  /** Ends with what asks for an answer. Default false. */
  addGenerationPrompt?: boolean
}

/**
 * A conversation as the model's chat template writes it (`renderChat`), in segments: contents apart from template text, and
 * assistant turns learnt, each from the end of the prompt that asks for it up to and including the token that ends it.
 *
 * @throws {DataError} `E_TEMPLATE`: as `renderChat`, or the template changes contents so that they cannot be found again.
 */
export function chatSegments(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): Segment[] {
  const { order, between, lacksEnd } = skeletonOf(tokenizer, messages, options)
  const contents = contentsIn(renderChat(tokenizer, messages, options), order, between, messages)
  const isLearnt = (place: number) => {
    const message = messages[order[place] ?? -1]
    return message?.role === 'assistant' && message.weight !== 0
  }
  // only Alpaca's form, which models without a template get, writes no bos of its own
  const segments: Segment[] = tokenizer.chatTemplate === undefined ? bosSegments(tokenizer) : []
  between.forEach(({ text, learntHead, learntTail }, i) => {
    const template = (from: number, to: number, learnt: boolean) =>
      segments.push({ text: text.slice(from, to), source: 'template', learnt })
    template(0, learntHead, isLearnt(i - 1))
    if (lacksEnd[i - 1]) segments.push({ id: tokenizer.eosId!, learnt: isLearnt(i - 1) })
    template(learntHead, text.length - learntTail, false)
    template(text.length - learntTail, text.length, isLearnt(i))
    if (i < order.length) segments.push({ text: contents[i]!, source: 'data', learnt: isLearnt(i) })
  })
  return segments.filter((segment) => 'id' in segment || segment.text !== '')
}

const skeletons = new WeakMap<Tokenizer, Map<string, Skeleton>>()

/** Templates look at roles, hardly at contents: one skeleton serves all conversations with the same roles. */
function skeletonOf(tokenizer: Tokenizer, messages: readonly ChatMessage[], options: ChatOptions): Skeleton {
  const known = skeletons.get(tokenizer) ?? new Map<string, Skeleton>()
  skeletons.set(tokenizer, known)
  const key = [...messages.map(({ role }) => role), options.addGenerationPrompt ?? false].join()
  const skeleton = known.get(key) ?? makeSkeleton(tokenizer, messages, options)
  known.set(key, skeleton)
  return skeleton
}

function makeSkeleton(tokenizer: Tokenizer, messages: readonly ChatMessage[], options: ChatOptions): Skeleton {
  // private-use characters: no template compares a content with these
  const placeholders = messages.map(({ role }, i) => ({ role, content: `\uE000${i}\uE001` }))
  const whole = renderChat(tokenizer, placeholders, options)
  const parts = whole.split(/\uE000(\d+)\uE001/)
  const order = parts.filter((_, i) => i % 2 === 1).map(Number)
  const between = parts.filter((_, i) => i % 2 === 0).map((text) => ({ text, learntHead: 0, learntTail: 0 }))
  const lacksEnd = order.map(() => false)
  order.forEach((message, place) => {
    if (placeholders[message]!.role !== 'assistant') return
    const before = between[place]!
    const behind = between[place + 1]!
    const start = whole.indexOf(placeholders[message]!.content)
    before.learntTail = Math.min(
      start - promptLength(tokenizer, placeholders.slice(0, message), whole, start),
      before.text.length,
    )
    const end = endToken(tokenizer, placeholders.slice(0, message + 1))
    if (end !== undefined && behind.text.startsWith(end)) behind.learntHead = end.length
    else lacksEnd[place] = tokenizer.eosId !== undefined
  })
  return { order, between, lacksEnd }
}

/** How much of `whole` a user would send to have the answer that starts at `start` generated. */
function promptLength(tokenizer: Tokenizer, messages: ChatMessage[], whole: string, start: number): number {
  if (messages.length === 0) return start
  const prompt = renderChat(tokenizer, messages, { addGenerationPrompt: true })
  if (!whole.startsWith(prompt) || prompt.length > start) return start
  // a template that knows no generation prompt leaves out the header of the answer, which is not to be learnt
  const asks = prompt !== renderChat(tokenizer, messages)
  return asks || whole.slice(prompt.length, start).trim() === '' ? prompt.length : start
}

/** What the template closes a conversation's last answer with, if that is a special token, with any blank before it. */
function endToken(tokenizer: Tokenizer, messages: ChatMessage[]): string | undefined {
  const rendered = renderChat(tokenizer, messages)
  const content = messages.at(-1)!.content
  const [blank = '', token] = tokenizer.splitSpecialTokens(rendered.slice(rendered.indexOf(content) + content.length))
  return token !== undefined && blank.trim() === '' ? blank + token : undefined
}

/**
 * Finds the contents in a rendered conversation. Templates trim them, and some drop the thoughts in front of an answer: the
 * longest part of the message that fits is it, so that no message can pass for template text by imitating it.
 */
function contentsIn(
  rendered: string,
  order: readonly number[],
  between: Skeleton['between'],
  messages: readonly ChatMessage[],
): string[] {
  let at = between[0]!.text.length
  let fits = rendered.startsWith(between[0]!.text)
  const contents = order.map((message, place) => {
    const { content } = messages[message]!
    const next = between[place + 1]!.text
    const isLast = place === order.length - 1
    let end = isLast ? rendered.length - next.length : rendered.lastIndexOf(next, at + content.length)
    while (!isLast && end > at && !content.includes(rendered.slice(at, end))) end = rendered.lastIndexOf(next, end - 1)
    const found = rendered.slice(at, end)
    fits &&= end >= at && content.includes(found) && rendered.startsWith(next, end)
    at = end + next.length
    return found
  })
  if (fits && at === rendered.length) return contents
  throw new DataError(
    'E_TEMPLATE',
    'The chat template rewrites messages, so what is to be learnt cannot be told apart',
    {
      expected: 'contents in the order of the template, trimmed at most',
      found: rendered.slice(0, 80),
      remedy: 'use a template that writes contents as they are, or records of the form {"prompt", "completion"}',
    },
  )
}
