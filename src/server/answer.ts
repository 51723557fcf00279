import { randomUUID } from 'node:crypto'
import type { Completion, CompletionEvent, CompletionRequest } from '../infer/scheduler.ts'
import type { Choice, Dialect } from './dialects.ts'
import type { ChatBody, CompletionBody, Usage } from './schemas.ts'

type Events = AsyncIterable<CompletionEvent>

/** Writes the answer to one request, whole or in chunks. */
export class AnswerWriter<Body extends CompletionBody | ChatBody> {
  readonly requests: readonly CompletionRequest[]
  private readonly dialect: Dialect<Body>
  private readonly body: Body
  private readonly head: object
  private readonly completions: { index: number; completion: Completion }[] = []

  constructor(dialect: Dialect<Body>, body: Body) {
    this.dialect = dialect
    this.body = body
    this.requests = dialect.requests(body)
    const created = Math.floor(Date.now() / 1000)
    this.head = { id: `${dialect.idPrefix}-${randomUUID()}`, created, model: body.model }
  }

  async whole(events: Events): Promise<object> {
    const choices = this.requests.map((_, index) => this.emptyChoice(index))
    for await (const part of this.parts(events)) {
      const choice = choices[part.index]!
      choice.text += part.text
      choice.tokens?.push(...(part.tokens ?? []))
      choice.completion = part.completion
    }
    const { object, whole } = this.dialect
    return { ...this.head, object, choices: choices.map(whole), usage: this.usage }
  }

  async *chunks(events: Events): AsyncGenerator<object, void> {
    const { chunkObject, opening, part } = this.dialect
    const chunk = (choices: object[]) => ({ ...this.head, object: chunkObject, choices })
    if (opening) yield chunk(this.requests.map((_, index) => ({ index, ...opening })))
    for await (const choice of this.parts(events)) yield chunk([part(choice)])
    if (this.body.stream_options?.include_usage) yield { ...chunk([]), usage: this.usage }
  }

  private async *parts(events: Events): AsyncGenerator<Choice, void> {
    const offsets = this.requests.map(() => 0)
    for await (const event of events) {
      const { index } = event
      const choice = { ...this.emptyChoice(index), offset: offsets[index]! }
      if ('completion' in event) {
        this.completions.push(event)
        yield { ...choice, tokens: undefined, completion: event.completion }
      } else {
        const { text, tokens } = event.part
        yield { ...choice, text, tokens: choice.tokens && tokens }
        for (const token of tokens) offsets[index]! += token.text.length
      }
    }
  }

  private emptyChoice(index: number): Choice {
    const isScored = this.requests[index]!.logprobs !== undefined
    return { index, text: '', tokens: isScored ? [] : undefined, offset: 0, completion: undefined }
  }

  /** A prompt counts once, however many choices it has. */
  private get usage(): Usage {
    const sum = (counts: number[]) => counts.reduce((total, count) => total + count, 0)
    const firsts = this.completions.filter(({ index }) => index % (this.body.n ?? 1) === 0)
    const prompt = sum(firsts.map(({ completion }) => completion.promptTokens))
    const completion = sum(this.completions.map(({ completion }) => completion.completionTokens))
    return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
  }
}
