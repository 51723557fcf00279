import { setImmediate } from 'node:timers/promises'
import { ConfigError } from '../errors.ts'
import type { Pairs } from '../lora/attach.ts'
import { type Context, stopIfAborted } from '../worker/protocol.ts'
import { type CompletionPart, CompletionWriter } from './completionWriter.ts'
import { Engine } from './engine.ts'
import type { GenerateOptions } from './generate.ts'
import type { LoadedModel } from './loadedModel.ts'
import { type Prompt, promptIds } from './prompt.ts'
import { type FinishReason, TokenSequence } from './tokenSequence.ts'

export interface CompletionRequest extends GenerateOptions {
  /** The base model's name, or a registered adapter's. */
  model: string
  prompt: Prompt
  /** Scores tokens, beside so many of the likeliest in their place. */
  logprobs?: number | undefined
  /** The prompt is part of the text, and of what is scored. */
  echo: boolean
}

export interface Completion {
  finishReason: FinishReason
  promptTokens: number
  completionTokens: number
}

/** A part of a completion comes, or it is complete. */
type Outcome = { part: CompletionPart } | { completion: Completion }

/** What happens to completion number `index` of a request. */
export type CompletionEvent = { index: number } & Outcome

const isPromptScored = ({ echo, logprobs }: CompletionRequest) => echo && logprobs !== undefined

/** Completes prompts that share one engine. */
export class Scheduler {
  private readonly loaded: LoadedModel
  private readonly models: ReadonlyMap<string, Pairs>
  readonly contextLength: number
  private readonly engine: Engine
  private step: Promise<void> | undefined

  /**
   * @param models the pairs of adapters by the names that requests have for them; the base model is one without pairs
   * @param maxSequences those that are generated at once; others wait
   * @param contextLength tokens of a prompt and its completion together
   */
  constructor(
    loaded: LoadedModel,
    models: ReadonlyMap<string, Pairs>,
    { maxSequences, contextLength }: { maxSequences: number; contextLength: number },
  ) {
    this.loaded = loaded
    this.models = models
    this.contextLength = contextLength
    this.engine = new Engine(loaded.model, maxSequences, contextLength, [...models.values()])
  }

  /**
   * Completes prompts side by side; what happens to them is emitted. None begins before all are checked.
   * @throws {ConfigError} `E_CONFIG`: a prompt is empty or too long, or has ids that are no tokens
   * @throws {AbortError} the caller wants no more
   */
  async complete(requests: readonly CompletionRequest[], { emit, signal }: Context<CompletionEvent>): Promise<void> {
    const sequences = requests.map((request) => this.sequenceOf(request))
    await Promise.all(
      requests.map((request, index) =>
        this.run(request, sequences[index]!, { emit: (event) => emit({ index, ...event }), signal }),
      ),
    )
  }

  private sequenceOf(request: CompletionRequest): TokenSequence {
    const { model, tokenizer } = this.loaded
    const ids = promptIds(tokenizer, request.prompt)
    this.requireTokens(ids)
    const maxNewTokens = this.requireRoom(ids, request.maxNewTokens)
    const options = { ...request, maxNewTokens, scorePrompt: isPromptScored(request) }
    return new TokenSequence(ids, this.models.get(request.model)!, model.config.eosTokenIds, options)
  }

  private async run(
    request: CompletionRequest,
    sequence: TokenSequence,
    { emit, signal }: Context<Outcome>,
  ): Promise<void> {
    const promptTokens = sequence.ids.length
    const writer = new CompletionWriter(sequence, this.loaded.tokenizer, request.stop)
    if (request.echo) emit({ part: writer.prompt(request.prompt, isPromptScored(request)) })
    this.engine.add(sequence)
    try {
      while (!sequence.finished) {
        await this.nextStep()
        stopIfAborted(signal, 'the completion')
        const part = writer.next()
        if (part.text || part.tokens.length > 0) emit({ part })
      }
    } finally {
      sequence.finishReason ??= 'stop' // an error left it unfinished: its slot is for others
    }
    const { finishReason, sampled } = sequence
    emit({ completion: { finishReason, promptTokens, completionTokens: sampled } })
  }

  /** One step of the engine, for all that wait for it. Before it the thread takes messages. */
  private nextStep(): Promise<void> {
    this.step ??= setImmediate().then(() => {
      this.step = undefined
      this.engine.step()
    })
    return this.step
  }

  private requireTokens(prompt: readonly number[]): void {
    const { vocabSize } = this.loaded.model.config
    const foreign = prompt.find((id) => id >= vocabSize)
    if (foreign === undefined) return
    throw new ConfigError('E_CONFIG', 'the prompt has a token that the model does not know', {
      field: 'prompt',
      expected: `ids below ${vocabSize}`,
      found: String(foreign),
    })
  }

  private requireRoom(prompt: readonly number[], maxNewTokens?: number): number {
    const room = this.contextLength - prompt.length
    if (prompt.length > 0 && (maxNewTokens ?? 1) <= room) return maxNewTokens ?? room
    throw new ConfigError('E_CONFIG', 'the prompt and the new tokens do not fit the context', {
      field: 'max_tokens',
      expected: `a prompt, and at most ${this.contextLength} tokens together`,
      found: `${prompt.length} + ${maxNewTokens ?? 1}`,
    })
  }
}
