import { z } from 'zod'
import { quantizations } from '../model/weights.ts'
import { count, dataSource, device, index, path, paths, recordFormats, seed } from './common.ts'

const regularExpression = z.string().refine(isRegularExpression, 'a regular expression of JavaScript')

/** Which model to compute with. */
export const inferenceOptions = z.strictObject({
  model: path.describe('a Hugging Face folder with safetensors, or a GGUF file'),
  adapter: path.optional().describe('a PEFT folder for this model, used unmerged'),
  quantize: z.enum(quantizations).default('none').describe('how the weights are held'),
  quantizeTables: z.boolean().default(false).describe('holds embedding and output head in NF4 too'),
  device,
})

/** What `evaluate` can count besides perplexity. */
export const taskKinds = ['exact-match', 'multiple-choice', 'code'] as const

export const taskOptions = z.strictObject({
  kind: z
    .enum(taskKinds)
    .describe(
      'exact-match: generated answers; multiple-choice: the likeliest choice; code: generated Python that passes',
    ),
  shots: paths.optional().describe('records of the same form that come before every question, solved'),
  shotCount: count.optional().describe('only the first so many of them; default all'),
  answer: regularExpression.optional().describe('of exact-match: finds the answer in a text, by its first group'),
  stop: z.array(z.string().nonempty()).optional().describe('text that ends a generated answer'),
  maxNewTokens: count.optional().describe('of a generated answer; default 256'),
  runCode: z.boolean().optional().describe('of code: agrees to run what the model writes on this machine'),
  predictions: path.optional().describe('JSONL file for every question with what the model made of it'),
})

/** What `loram serve` takes. */
export const serveOptions = inferenceOptions.omit({ adapter: true }).extend({
  adapter: z
    .array(z.string().regex(/^[\w.:-]+=./, 'a name, made of letters, digits and . _ : -, an equals sign, and a folder'))
    .default([])
    .describe('name=folder of a PEFT adapter that requests may name'),
  host: z.string().nonempty().default('127.0.0.1').describe('address to listen on; 0.0.0.0 is all of them'),
  port: z.int().min(0).max(65535).default(8000).describe('0 takes a free one'),
  apiKey: z.string().nonempty().optional().describe('what requests must carry as bearer token'),
  maxSequences: count.default(8).describe('completions that are generated at once; memory grows with it'),
  maxQueue: index.default(64).describe('completions that may wait for one of these; further requests get status 429'),
  contextLength: count
    .optional()
    .describe(
      "tokens of a prompt and its completion; memory grows with it; default 2048, or the model's if that is less",
    ),
  requestTimeout: count.default(30).describe('seconds in which a client must have sent its request'),
  shutdownTimeout: count.default(30).describe('seconds that running requests have left after SIGINT or SIGTERM'),
})

export const evaluateOptions = z.strictObject({
  data: paths.describe(dataSource),
  format: z
    .enum(recordFormats)
    .default('auto')
    .describe('text is evaluated as running text; so are .txt and .md files under auto'),
  sequenceLength: count
    .optional()
    .describe(
      "tokens of an example or of a piece of running text; default 512, or the model's positions if they are fewer",
    ),
  microBatchSize: count.default(4).describe('examples in the model at once'),
  limit: count.optional().describe('evaluates only the first sequences, examples or questions'),
  task: taskOptions.optional().describe('counts right answers instead of measuring perplexity'),
})

export const evaluateCommandOptions = inferenceOptions.extend(evaluateOptions.shape)

/** How text is generated. */
export const samplingOptions = z.strictObject({
  maxNewTokens: count
    .optional()
    .describe(
      'at most so many; an end-of-sequence token ends earlier; default: 128, in a conversation 512, or fewer if the model has no room for these',
    ),
  temperature: z.number().min(0).default(0).describe('0 takes the most likely token'),
  topK: index.default(0).describe('only the k most likely tokens; 0: all'),
  topP: z.number().gt(0).max(1).default(1).describe('only the most likely tokens that together reach this probability'),
  stop: z.array(z.string().nonempty()).default([]).describe('text that ends generation'),
  seed,
})

export const generateOptions = z.strictObject({
  prompt: z.string().describe('text to go on from'),
  chat: z.boolean().default(false).describe("takes the prompt as a user's message, in the model's chat template"),
  ...samplingOptions.shape,
})

export const chatMessages = z
  .array(z.strictObject({ role: z.enum(['system', 'user', 'assistant', 'tool']), content: z.string() }))
  .nonempty()

export const chatCommandOptions = inferenceOptions.extend({
  system: z.string().optional().describe('what the conversation begins with'),
  ...samplingOptions.shape,
})

export const generateCommandOptions = inferenceOptions.extend(generateOptions.shape)

function isRegularExpression(source: string): boolean {
  try {
    return Boolean(new RegExp(source))
  } catch {
    return false
  }
}

export type InferenceOptions = z.input<typeof inferenceOptions>
export type ServeOptions = z.input<typeof serveOptions>
export type EvaluateOptions = z.input<typeof evaluateOptions>
export type TaskOptions = z.input<typeof taskOptions>
export type GenerateOptions = z.input<typeof generateOptions>
export type SamplingOptions = z.input<typeof samplingOptions>
export type ChatMessage = z.input<typeof chatMessages>[number]
