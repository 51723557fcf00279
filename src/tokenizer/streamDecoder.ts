import type { Tokenizer } from './tokenizer.ts'

/** More tokens than a character has bytes: what has not become one by then never will. */
const maxPending = 16

/** Turns ids into text as they come. Never gives out part of a character: it waits for the token that completes it. */
export function streamDecoder(tokenizer: Tokenizer): { push(id: number): string; end(): string } {
  // A blank at the start of a token shows only in context, so the last tokens given out stay in front of the pending ones
  let context: number[] = []
  let pending: number[] = []

  const flush = (): string => {
    const before = tokenizer.decode(context)
    const text = tokenizer.decode([...context, ...pending]).slice(before.length)
    context = text === '' ? [...context, ...pending] : pending
    pending = []
    return text
  }
  return {
    push(id) {
      pending.push(id)
      const incomplete = tokenizer.decode([...context, ...pending]).endsWith('\uFFFD')
      return incomplete && pending.length < maxPending ? '' : flush()
    },
    /** The rest, with U+FFFD for a character that was never completed. */
    end: () => (pending.length === 0 ? '' : flush()),
  }
}
