import { streamDecoder } from '../tokenizer/streamDecoder.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

/** Text of tokens as they come, up to the first of some stop texts. */
export class TextStream {
  /** A stop text came. */
  stopped = false
  private readonly decoder: ReturnType<typeof streamDecoder>
  private readonly stop: readonly string[]
  /** May be the beginning of a stop text. */
  private held = ''

  constructor(tokenizer: Tokenizer, stop: readonly string[]) {
    this.decoder = streamDecoder(tokenizer)
    this.stop = stop
  }

  /** The text that token `id` makes certain, possibly none. */
  push(id: number): string {
    return this.release(this.decoder.push(id))
  }

  /** The rest, after the last token. */
  end(): string {
    if (this.stopped) return ''
    const text = this.release(this.decoder.end())
    return this.stopped ? text : text + this.held
  }

  private release(added: string): string {
    const text = this.held + added
    const end = firstOf(text, this.stop)
    this.stopped = end >= 0
    const safe = this.stopped ? end : text.length - heldBack(text, this.stop)
    this.held = text.slice(safe)
    return text.slice(0, safe)
  }
}

/** Where the first stop text begins, or -1. */
function firstOf(text: string, stop: readonly string[]): number {
  const found = stop.map((s) => text.indexOf(s)).filter((at) => at >= 0)
  return found.length ? Math.min(...found) : -1
}

/** Length of the longest end of `text` that may become a stop text. */
function heldBack(text: string, stop: readonly string[]): number {
  const most = Math.max(0, ...stop.map((s) => s.length - 1))
  for (let length = Math.min(most, text.length); length > 0; length--) {
    if (stop.some((s) => s.startsWith(text.slice(-length)))) return length
  }
  return 0
}
