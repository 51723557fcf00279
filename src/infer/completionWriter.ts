import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { isIds, type Prompt } from './prompt.ts'
import type { TokenScore } from './score.ts'
import { TextStream } from './textStream.ts'
import type { TokenSequence } from './tokenSequence.ts'

/** A token's own text, and how likely it was (natural logarithm); the first of a prompt has no score. */
export interface ScoredToken {
  text: string
  logprob: number | null
  top: { text: string; logprob: number }[]
}

/** The next part of a completion; `tokens` only where scores are asked for. */
export interface CompletionPart {
  text: string
  tokens: ScoredToken[]
}

/** Makes text of a sequence as it grows, and ends it at a stop text. */
export class CompletionWriter {
  private readonly sequence: TokenSequence
  private readonly tokenizer: Tokenizer
  private readonly stream: TextStream
  private idsSeen: number
  private scoresSeen = 0

  constructor(sequence: TokenSequence, tokenizer: Tokenizer, stop: readonly string[]) {
    this.sequence = sequence
    this.tokenizer = tokenizer
    this.stream = new TextStream(tokenizer, stop)
    this.idsSeen = sequence.ids.length
  }

  /** The prompt's own part: its text, and the token that nothing predicts. */
  prompt(prompt: Prompt, isScored: boolean): CompletionPart {
    const text = typeof prompt === 'string' ? prompt : isIds(prompt) ? this.tokenizer.decode(prompt) : ''
    const first = { text: this.textOf(this.sequence.ids[0]!), logprob: null, top: [] }
    return { text, tokens: isScored ? [first] : [] }
  }

  /** What came since the last call; the rest once the sequence is finished. */
  next(): CompletionPart {
    const { sequence, stream } = this
    let text = ''
    for (; this.idsSeen < sequence.ids.length && !stream.stopped; this.idsSeen++) {
      text += stream.push(sequence.ids[this.idsSeen]!)
    }
    if (stream.stopped) sequence.finishReason = 'stop'
    else if (sequence.finished) text += stream.end()
    const scores = sequence.scores.slice(this.scoresSeen)
    this.scoresSeen += scores.length
    return { text, tokens: scores.map((score) => this.withText(score)) }
  }

  private withText({ id, logprob, top }: TokenScore): ScoredToken {
    return {
      text: this.textOf(id),
      logprob,
      top: top.map((other) => ({ text: this.textOf(other.id), logprob: other.logprob })),
    }
  }

  private textOf(id: number): string {
    return this.tokenizer.decode([id], { skipSpecialTokens: false })
  }
}
