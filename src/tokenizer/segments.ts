import type { Tokenizer } from './tokenizer.ts'

/** A stretch of a prompt or an answer. Only text from a template may spell special tokens; text from data never does. */
export type Segment = { learnt: boolean } & ({ id: number } | { text: string; source: 'template' | 'data' })

/** Consecutive tokens that are all learnt, or all not. */
export interface Run {
  ids: number[]
  learnt: boolean
}

/**
 * Encodes segments into runs that alternate between learnt and not. Neighbouring text is encoded as one, but never across
 * the border between prompt and answer: a generation starts from the prompt encoded by itself, so an answer must be learnt
 * as what follows exactly those ids, and no token is half prompt, half answer.
 */
export function encodeSegments(tokenizer: Tokenizer, segments: readonly Segment[]): Run[] {
  const runs: Run[] = []
  let text = ''
  let after: 'start' | 'token' | 'text' = 'start'
  const append = (ids: number[], learnt: boolean) => {
    const last = runs.at(-1)
    if (last?.learnt !== learnt) runs.push({ ids, learnt })
    else for (const id of ids) last.ids.push(id)
  }
  const flush = (learnt: boolean) => {
    if (text === '') return
    append(tokenizer.encode(text, { after }), learnt)
    text = ''
    after = 'text'
  }

  segments.forEach((segment, i) => {
    const { learnt } = segment
    for (const part of partsOf(tokenizer, segment)) {
      if (typeof part === 'string') {
        text += part
        continue
      }
      flush(learnt)
      append([part], learnt)
      after = 'token'
    }
    if (segments[i + 1]?.learnt !== learnt) flush(learnt)
  })
  return runs.filter(({ ids }) => ids.length > 0)
}

/** What a text without a template starts with: bos, where the tokenizer wants one. */
export const bosIds = ({ addBos, bosId }: Tokenizer): number[] => (addBos && bosId !== undefined ? [bosId] : [])

/** {@link bosIds} before the segments of a prompt. */
export const bosSegments = (tokenizer: Tokenizer): Segment[] => bosIds(tokenizer).map((id) => ({ id, learnt: false }))

/** Text, and the ids of special tokens between it. */
function partsOf(tokenizer: Tokenizer, segment: Segment): (string | number)[] {
  if ('id' in segment) return [segment.id]
  if (segment.source === 'data') return [segment.text]
  const parts = tokenizer.splitSpecialTokens(segment.text)
  return parts.map((part, i) => (i % 2 === 1 ? tokenizer.encode(part, { specialTokens: true })[0]! : part))
}
