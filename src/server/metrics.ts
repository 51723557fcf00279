import { Counter, Gauge, Histogram, Registry } from 'prom-client'

const seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]

export type Metrics = ReturnType<typeof createMetrics>

/** What a server counts, in a registry of its own. */
export function createMetrics(engine: { readonly running: number; readonly waiting: number }) {
  const registry = new Registry()
  const registers = [registry]
  new Gauge({
    name: 'loram_completions_running',
    help: 'Completions that are generated now',
    registers,
    collect() {
      this.set(engine.running)
    },
  })
  new Gauge({
    name: 'loram_completions_waiting',
    help: 'Completions that wait for a free place in the engine',
    registers,
    collect() {
      this.set(engine.waiting)
    },
  })
  return {
    registry,
    requests: new Counter({
      name: 'loram_http_requests_total',
      help: 'Answered requests',
      labelNames: ['route', 'status'],
      registers,
    }),
    requestSeconds: new Histogram({
      name: 'loram_http_request_seconds',
      help: 'From a request to the end of its answer',
      labelNames: ['route'],
      buckets: seconds,
      registers,
    }),
    firstTokenSeconds: new Histogram({
      name: 'loram_first_token_seconds',
      help: 'From a request to the first text of its completions',
      labelNames: ['model'],
      buckets: seconds,
      registers,
    }),
    promptTokens: new Counter({
      name: 'loram_prompt_tokens_total',
      help: 'Tokens of prompts',
      labelNames: ['model'],
      registers,
    }),
    completionTokens: new Counter({
      name: 'loram_completion_tokens_total',
      help: 'Generated tokens',
      labelNames: ['model'],
      registers,
    }),
  }
}

/** Counts what passes by. */
export async function* measured<
  Event extends { completion: { promptTokens: number; completionTokens: number } } | { part: object },
>(
  { firstTokenSeconds, promptTokens, completionTokens }: Metrics,
  model: string,
  events: AsyncIterable<Event>,
): AsyncGenerator<Event, void> {
  const stop = firstTokenSeconds.startTimer({ model })
  let isFirst = true
  for await (const event of events) {
    if (isFirst) stop()
    isFirst = false
    if ('completion' in event) {
      promptTokens.inc({ model }, event.completion.promptTokens)
      completionTokens.inc({ model }, event.completion.completionTokens)
    }
    yield event
  }
}
