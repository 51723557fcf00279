import type { z } from 'zod'
import type { DataEvaluation, Generation } from '../infer/loadedModel.ts'
import type { Prompt } from '../infer/prompt.ts'
import type { TaskScore } from '../infer/tasks/index.ts'
import type { Loading } from '../model/open.ts'
import {
  type ChatMessage,
  chatMessages,
  type EvaluateOptions,
  evaluateOptions,
  type GenerateOptions,
  generateOptions,
  type InferenceOptions,
  inferenceOptions,
  type SamplingOptions,
  samplingOptions,
} from '../options/index.ts'
import { orNone, validate } from '../validate.ts'
import { requireSignal, WorkerClient } from '../worker/client.ts'
import { EventLog } from '../worker/eventLog.ts'

/** What an evaluation gives: with a `task` how many answers were right, else the perplexity. */
export type EvaluationOf<Options extends EvaluateOptions> = Options extends { task: object }
  ? TaskScore
  : DataEvaluation

const chatOptions = samplingOptions.extend({ messages: chatMessages })

/** A model in a worker thread of its own. */
export interface LargeModel {
  /** What loading it took. */
  readonly loading: Loading
  /**
   * Text that follows `prompt`, in pieces as it is generated.
   * @throws {AbortError} `signal` was aborted
   */
  generate(prompt: string, options?: Omit<GenerateOptions, 'prompt'> & { signal?: AbortSignal }): AsyncIterable<string>
  /** The answer to a conversation, in the model's chat template, in pieces as it is generated. */
  chat(messages: readonly ChatMessage[], options?: SamplingOptions & { signal?: AbortSignal }): AsyncIterable<string>
  /** What `generate` gives, whole, with its token ids and speed. */
  complete(prompt: string, options?: Omit<GenerateOptions, 'prompt'> & { signal?: AbortSignal }): Promise<Generation>
  /**
   * Perplexity of data: of the answers of records, of every token of running text. With `task`, the share of questions that
   * the model answers right.
   */
  evaluate<Options extends EvaluateOptions>(options: Options & { signal?: AbortSignal }): Promise<EvaluationOf<Options>>
  /** Frees the model and ends its thread. */
  close(): Promise<void>
}

/**
 * Loads a model, and an adapter that it uses unmerged.
 * @param model a Hugging Face folder, or a GGUF file
 * @throws {LoramError} see docs/errors.md
 * @example
 * const large = await loadModel('./Llama-3.1-8B', { adapter: './my-adapter', quantize: 'nf4' })
 * for await (const text of large.generate('Question: ...')) process.stdout.write(text)
 * await large.close()
 */
export async function loadModel(model: string, options: Omit<InferenceOptions, 'model'> = {}): Promise<LargeModel> {
  const resolved = validate(inferenceOptions, { ...options, model })
  const client = new WorkerClient()
  const loading = await client.call('load', resolved).catch(async (error) => {
    await client.close()
    throw error
  })
  return {
    loading,
    async *generate(prompt, given) {
      const { signal, ...rest } = orNone(given)
      yield* pieces(client, withPrompt(validate(generateOptions, { ...rest, prompt })), signal)
    },
    async *chat(messages, given) {
      const { signal, ...rest } = orNone(given)
      const { messages: prompt, ...sampling } = validate(chatOptions, { ...rest, messages })
      yield* pieces(client, { ...sampling, prompt }, signal)
    },
    async complete(prompt, given) {
      const { signal, ...rest } = orNone(given)
      return client.call('generate', withPrompt(validate(generateOptions, { ...rest, prompt })), { signal })
    },
    async evaluate<Options extends EvaluateOptions>(given: Options & { signal?: AbortSignal }) {
      const { signal, ...rest } = orNone(given)
      const evaluation = await client.call('evaluate', validate(evaluateOptions, rest), { signal })
      return evaluation as EvaluationOf<Options>
    },
    close: () => client.close(),
  }
}

/** A prompt as the model gets it: text, or the conversation that it opens. */
function withPrompt({ prompt, chat, ...options }: z.output<typeof generateOptions>) {
  return { ...options, prompt: chat ? [{ role: 'user' as const, content: prompt }] : prompt }
}

/** What is generated, in pieces. Whoever stops to iterate ends it. */
async function* pieces(
  client: WorkerClient,
  options: z.output<typeof samplingOptions> & { prompt: Prompt },
  signal: AbortSignal | undefined,
): AsyncGenerator<string, void> {
  const left = new AbortController()
  const log = new EventLog<string>()
  requireSignal(signal)
  const done = client.call('generate', options, {
    signal: AbortSignal.any([left.signal, ...(signal ? [signal] : [])]),
    onEvent: (text) => log.push(text),
  })
  const end = () => log.end()
  done.then(end, end)
  try {
    yield* log
    await done
  } finally {
    left.abort()
  }
}
