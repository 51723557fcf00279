import type { Pairs } from '../lora/attach.ts'
import type { Sequence } from './engine.ts'
import { type SampleOptions, sample } from './sample.ts'
import { type TokenScore, tokenScore } from './score.ts'

export type FinishReason = 'stop' | 'length'

export interface SequenceOptions extends SampleOptions {
  maxNewTokens: number
  /** Scores every token that is generated, beside so many of the likeliest in its place. */
  logprobs?: number | undefined
  /** Scores those of the prompt too, but for the first. */
  scorePrompt?: boolean
}

/** A prompt and what is sampled after it, up to an end-of-sequence token or `maxNewTokens`. */
export class TokenSequence implements Sequence {
  readonly ids: number[]
  readonly adapter: Pairs
  readonly firstLogits: number
  /** Scores in the order of the tokens; an end-of-sequence token is the last. */
  readonly scores: TokenScore[] = []
  /** Set from outside, it ends the sequence before its time. */
  finishReason: FinishReason | undefined
  /** Tokens that were sampled, the end-of-sequence token among them. */
  sampled = 0
  private readonly eosTokenIds: readonly number[]
  private readonly options: SequenceOptions

  constructor(prompt: readonly number[], adapter: Pairs, eosTokenIds: readonly number[], options: SequenceOptions) {
    this.ids = [...prompt]
    this.adapter = adapter
    this.eosTokenIds = eosTokenIds
    this.options = options
    this.firstLogits = options.scorePrompt ? 0 : prompt.length - 1
    if (options.maxNewTokens === 0 && !options.scorePrompt) this.finishReason = 'length'
  }

  get finished(): boolean {
    return this.finishReason !== undefined
  }

  take(logits: Float32Array, position: number): void {
    const { maxNewTokens } = this.options
    if (position < this.ids.length - 1) {
      this.score(logits, this.ids[position + 1]!)
      return
    }
    if (this.sampled < maxNewTokens) this.next(logits)
    if (this.sampled === maxNewTokens) this.finishReason ??= 'length'
  }

  private next(logits: Float32Array): void {
    const id = sample(logits, this.options, this.sampled)
    this.sampled++
    this.score(logits, id)
    if (this.eosTokenIds.includes(id)) this.finishReason = 'stop'
    else this.ids.push(id)
  }

  private score(logits: Float32Array, id: number): void {
    const { logprobs } = this.options
    if (logprobs !== undefined) this.scores.push(tokenScore(logits, id, logprobs))
  }
}
