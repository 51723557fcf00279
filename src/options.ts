import { z } from 'zod'
import { consumers } from './export/adapterRules.ts'
import { type ExportType, exportTypes } from './export/encode.ts'
import { groupPatterns } from './formats/pruningJson.ts'
import { loraDefaults, targetModules } from './lora/attach.ts'
import { type Fill, fills } from './lora/recover.ts'
import { quantizations } from './model/weights.ts'
import { allocations } from './prune/budget.ts'
import { groupings } from './prune/importance.ts'
import {
  type Criterion,
  criteria,
  criteriaOf,
  cutsStructures,
  defaultCriterion,
  needsText,
  pruneMethods,
} from './prune/methods.ts'
import { deviceNames } from './tensor/device.ts'
import { recomputeChoices } from './train/recompute.ts'
import { schedules } from './train/schedule.ts'
import { holds } from './train/teacher.ts'

const count = z.int().positive()
const index = z.int().nonnegative()
const fraction = z.number().min(0).lt(1)
const path = z.string().nonempty()
const paths = z.union([path, z.array(path).nonempty()])
const regularExpression = z.string().refine(isRegularExpression, 'a regular expression of JavaScript')

/** The formats of training records; `auto` tells them by their keys. */
export const recordFormats = ['auto', 'text', 'prompt-completion', 'alpaca', 'messages'] as const

const device = z.enum(deviceNames).default('auto').describe('where to compute; auto takes a usable GPU, else the CPU')
const quantizeTables = z
  .boolean()
  .optional()
  .describe('holds embedding and output head in NF4 too; by default only where the base in NF4 fits no other way')
const fill = z.enum(fills).default('zero').describe('what rows and columns that were cut are filled with')
const cache = z.boolean().default(true).describe('keeps the encoded data for further runs: docs/data.md')
const scale = z.number().positive()
const seed = index.default(42).describe('of everything random')

const schedule = {
  learningRate: z.number().positive().describe('the highest, after warm-up'),
  schedule: z.enum(schedules).default('cosine').describe('how the learning rate falls after warm-up'),
  warmupSteps: index.default(0).describe('steps in which the learning rate rises from 0'),
  batchSize: count.describe('examples of a step'),
  microBatchSize: count.default(4).describe('examples in the model at once; memory grows with it'),
  weightDecay: z.number().min(0).default(0).describe('of AdamW'),
  maxGradNorm: z.number().min(0).default(1).describe('clips the norm of all gradients together; 0 does not'),
  recompute: z
    .enum(recomputeChoices)
    .default('auto')
    .describe('what backward makes again: cheap norms and products, full whole layers; auto as much as memory needs'),
  offload: z
    .boolean()
    .optional()
    .describe('layer inputs in host memory instead of on the GPU; by default where memory needs it'),
}

const dataSource = 'JSONL, JSON, Parquet or text: a file, a folder, a pattern such as data/*.jsonl, or a list of them'

/** How records become examples. */
const encoding = {
  format: z.enum(recordFormats).default('auto').describe('of the records; auto tells by their keys'),
  sequenceLength: count.default(512).describe('tokens of an example; longer ones lose their end'),
  trainOn: z.enum(['answers', 'last-answer', 'all']).default('answers').describe('what is learnt'),
  onBadLine: z.enum(['fail', 'skip']).default('fail').describe('what a line that is no record does'),
  deduplicate: z.boolean().default(false).describe('leaves out records that say what an earlier one said'),
  cache,
}

export const dataOptions = z
  .strictObject({
    train: paths.describe(dataSource).meta({ examples: ['train.jsonl'] }),
    eval: paths
      .optional()
      .describe('held-out data, evaluated during training; the best adapter is kept')
      .meta({ examples: ['eval.jsonl'] }),
    evalSplit: fraction.default(0).describe('part of the training data to hold out instead, chosen by content'),
    ...encoding,
    packing: z.boolean().default(false).describe('several examples in a row of sequenceLength tokens'),
  })
  .refine(({ eval: held, evalSplit }) => held === undefined || evalSplit === 0, {
    path: ['evalSplit'],
    message: '0 where data.eval is given',
  })

const pruneShape = {
  method: z
    .enum(pruneMethods)
    .default('structured')
    .describe('structured and random cut channels and heads; semi-structured and unstructured zero single weights'),
  criterion: z
    .enum(criteria)
    .optional()
    .describe('what goes first; default taylor, or sparsegpt where single weights go'),
  ratio: fraction
    .optional()
    .describe('part that goes; default 0.65, of unstructured 0.55; where memory is given, what fits it'),
  targetParams: z
    .union([z.string(), count])
    .optional()
    .describe('parameters of the pruned model at most, such as 17.85B, instead of ratio')
    .meta({ examples: ['17.85B'] }),
  allocation: z
    .enum(allocations)
    .optional()
    .describe(
      'what layers lose: uniform (default) all alike; importance by what all their structures give for their size',
    ),
  pattern: z
    .enum(groupPatterns)
    .optional()
    .describe('of semi-structured: how many of how many neighbours go; default 4:8'),
  layers: z
    .tuple([index, index])
    .optional()
    .describe(
      '[first, end) of the layers to prune; default all but the first 4 and last 2, and all where single weights go',
    ),
  grouping: z
    .enum(groupings)
    .optional()
    .describe('of structured: which kv head a query head counts for; default aligned'),
  calibration: z
    .strictObject({
      data: paths.optional().describe('text that the criterion is measured on; default the training data'),
      samples: count.optional().describe('windows of it; default 10, for single weights 128'),
      sequenceLength: count.optional().describe('tokens of a window; default 64, for single weights 2048'),
    })
    .optional(),
}

/** Refuses options that the method would not read. */
function checkPrune(given: z.output<z.ZodObject<typeof pruneShape>>, context: z.RefinementCtx): void {
  const { method, criterion = defaultCriterion(method) } = given
  const refuse = (key: keyof typeof pruneShape, message: string) => {
    if (given[key] !== undefined) context.addIssue({ code: 'custom', path: [key], message })
  }
  const known = criteriaOf[method] as readonly Criterion[]
  if (given.criterion && !known.includes(given.criterion)) {
    refuse(
      'criterion',
      known.length > 0 ? `of ${method}: ${known.join(', ')}` : `none: ${method} goes by the seed alone`,
    )
  }
  if (method !== 'semi-structured') refuse('pattern', 'method semi-structured with it')
  else refuse('ratio', 'none: the pattern says how many of semi-structured go')
  if (method !== 'structured') {
    refuse('grouping', 'method structured with it')
    if (given.allocation === 'importance') refuse('allocation', 'method structured with importance')
  }
  if (!cutsStructures(method)) {
    refuse('targetParams', 'method structured or random with it: other methods keep all shapes')
    refuse('allocation', 'method structured or random with it')
  }
  if (given.ratio !== undefined) refuse('targetParams', 'one of ratio and targetParams')
  if (!needsText(criterion)) refuse('calibration', `none: ${criterion ?? method} is not measured on text`)
}

const pruneOptions = z
  .strictObject({
    ...pruneShape,
    rotate: z
      .strictObject({
        every: count.default(10).describe('steps of training between two slices'),
        core: fraction.default(0).describe('part of the channels and heads that is in every slice, by importance'),
        rescale: z.boolean().default(false).describe('multiplies what is kept by one over its share'),
      })
      .optional()
      .describe('trains one adapter on slice after slice of the original instead of on one'),
  })
  .superRefine(checkPrune)

export const alignOptions = z.strictObject({
  ...schedule,
  data: paths.describe('running text: .txt, or JSONL or Parquet with "text"').meta({ examples: ['corpus.txt'] }),
  steps: count.describe('optimizer steps').meta({ examples: [400] }),
  learningRate: schedule.learningRate.default(5e-5),
  batchSize: schedule.batchSize.default(128),
  sequenceLength: count.default(512).describe('tokens of an example'),
  lora: z
    .strictObject({
      rank: count.default(32).describe('of the pairs, on all seven projections'),
      alpha: z.number().positive().default(64).describe('their update is scaled by alpha / rank'),
      quantize: z.enum(quantizations).default('nf4').describe('how the weights are held meanwhile'),
    })
    .optional()
    .describe('trains pairs, which are merged into the pruned weights, instead of the weights: less memory'),
  distill: z
    .strictObject({
      teacher: path.optional().describe('the original model; default the one that the run prunes'),
      weight: z
        .number()
        .gt(0)
        .max(1)
        .default(0.5)
        .describe("share of the divergence from the teacher's predictions in the loss"),
      temperature: z.number().positive().default(1).describe('flattens both predictions before they are compared'),
      quantize: z.enum(quantizations).default('nf4').describe('how the teacher is held'),
      hold: z.enum(holds).default('resident').describe('streamed reads one layer at a time, for every micro-batch'),
    })
    .optional()
    .describe("learns the original's predictions as well as the next tokens"),
})

export const loraOptions = z.strictObject({
  rank: count.default(loraDefaults.rank).describe('inner dimension of the pairs A and B'),
  alpha: z.number().positive().default(loraDefaults.alpha).describe('the update is scaled by alpha / rank'),
  dropout: fraction.default(loraDefaults.dropout).describe('part of the adapter input that training drops'),
  useRslora: z.boolean().default(loraDefaults.useRslora).describe('scale by alpha / sqrt(rank)'),
  targets: z
    .array(z.enum(targetModules))
    .nonempty()
    .default([...loraDefaults.targets])
    .describe('modules that get a pair'),
})

export const scheduleOptions = z.strictObject({
  ...schedule,
  epochs: z.number().positive().default(1).describe('times through the data; parts are allowed'),
  maxSteps: count.optional().describe('stops earlier than epochs say'),
  learningRate: schedule.learningRate.default(1e-4),
  batchSize: schedule.batchSize.default(128),
  evalSteps: count.default(50).describe('steps between evaluations'),
  patience: count.optional().describe('evaluations without a better loss after which training stops'),
  saveSteps: count.default(50).describe('steps between checkpoints'),
  keepCheckpoints: count.default(2).describe('older ones are removed'),
})

export const logOptions = z.strictObject({
  samples: index
    .default(0)
    .describe('answers to the first prompts of the evaluation data, before and after training, for the report'),
  tensorboard: z.boolean().default(false).describe('writes run/tensorboard in output, for TensorBoard'),
  prometheus: path
    .optional()
    .describe("keeps this file current in Prometheus' text format, for node_exporter's textfile collector")
    .meta({ examples: ['/var/lib/node_exporter/loram.prom'] }),
})

interface AcrossSections {
  prune?: z.output<typeof pruneOptions> | undefined
  align?: object | undefined
  data: { eval?: unknown; evalSplit: number }
  recover: { fill: Fill; scale: number | 'auto' }
}

/** What options ask of each other across sections. */
function checkRun({ prune, align, data, recover }: AcrossSections, context: z.RefinementCtx): void {
  const refuse = (path: string[], message: string) => context.addIssue({ code: 'custom', path, message })
  if (prune?.rotate) {
    const { method, rotate } = prune
    if (!cutsStructures(method)) refuse(['prune', 'rotate'], 'method structured or random with it')
    if (method === 'random' && rotate.core > 0) refuse(['prune', 'rotate', 'core'], 'method structured with a core')
    if (align) refuse(['align'], 'none with prune.rotate: each slice would want an alignment of its own')
    if (recover.fill !== 'zero') refuse(['recover', 'fill'], 'none with prune.rotate: nothing is left to fill')
  }
  if (recover.scale !== 'auto') return
  if (!prune) refuse(['recover', 'scale'], 'a number: auto needs the large model, which only a run that prunes it has')
  if (!data.eval && data.evalSplit === 0) refuse(['recover', 'scale'], 'data.eval or data.evalSplit with auto')
}

/** Everything `trainLoRAM` takes, and what a configuration file holds. */
export const trainLoRAMOptions = z
  .strictObject({
    model: path
      .describe('a Hugging Face folder with safetensors, original or pruned by loram, or a GGUF file')
      .meta({ examples: ['./model'] }),
    data: dataOptions,
    prune: pruneOptions.optional().describe('leave it out to train on the model as it is'),
    align: alignOptions.optional().describe('continual pre-training of the pruned model'),
    quantize: z.enum(quantizations).default('nf4').describe('how the frozen base is held while LoRA trains'),
    quantizeTables,
    lora: loraOptions.prefault({}),
    train: scheduleOptions.prefault({}),
    recover: z
      .strictObject({
        fill,
        scale: z
          .union([scale, z.literal('auto')])
          .default(1)
          .describe('factor on the recovered update; auto tries six with the large model on data.eval'),
      })
      .prefault({}),
    output: path.describe('folder for the adapter and everything on the way to it').meta({ examples: ['./adapter'] }),
    memory: z
      .union([z.string(), count])
      .optional()
      .describe(
        'budget in bytes or as "12 GiB", by default what is free on the GPU: recomputes to fit, or refuses; where it is given and no pruning ratio, picks that',
      )
      .meta({ examples: ['12 GiB'] }),
    log: logOptions.prefault({}),
    resume: z.boolean().default(false).describe('go on from the last checkpoint in output'),
    forceResume: z
      .boolean()
      .default(false)
      .describe('resume although options, data or version are not those of the run'),
    device,
    seed,
  })
  .superRefine(checkRun)

export type TrainLoRAMOptions = z.input<typeof trainLoRAMOptions>
export type ResolvedOptions = z.output<typeof trainLoRAMOptions>

export const pruneCommandOptions = z
  .strictObject({
    ...pruneShape,
    model: path.describe('the model to prune'),
    output: path.describe('new folder for the pruned model'),
    device,
    seed,
  })
  .superRefine(checkPrune)

export const alignCommandOptions = alignOptions.extend({
  model: path.describe('a pruned model'),
  output: path.describe('new folder for the aligned model'),
  cache,
  resume: z.boolean().default(false).describe('go on from the last checkpoint'),
  device,
  seed,
})

export const recoverCommandOptions = z.strictObject({
  adapter: path.describe('a PEFT folder, trained on a pruned model'),
  pruning: path.describe('pruning.json of that model, or its folder'),
  output: path.describe('folder for the recovered adapter'),
  fill,
  scale: scale.default(1).describe('factor on the recovered update'),
})

export const mergeCommandOptions = z.strictObject({
  model: path.describe('a Hugging Face folder with safetensors, or a GGUF file'),
  adapter: path.describe('a PEFT folder for this model'),
  output: path.describe('new folder for the merged model'),
})

/** What `export` writes: one model, a model and an adapter beside it, or an adapter alone. */
export const exportContents = ['merged', 'both', 'adapter'] as const

export const exportCommandOptions = z.strictObject({
  model: path.describe('a Hugging Face folder with safetensors, or a GGUF file'),
  adapter: path.optional().describe('a PEFT folder for this model'),
  content: z
    .enum(exportContents)
    .default('merged')
    .describe('merged: one model, with the adapter in its weights; both: model and adapter apart; adapter: it alone'),
  type: z
    .enum(Object.keys(exportTypes) as [ExportType, ...ExportType[]])
    .default('f16')
    .describe('of the weights of the model; an adapter is always f32'),
  output: path.describe('new folder for the GGUF files and the Modelfile'),
})

export const checkAdapterOptions = z.strictObject({
  adapter: path.describe('a PEFT folder'),
  for: z.enum(consumers).describe('the program that shall load it'),
  model: path.optional().describe('its base model, whose modules and shapes are compared too'),
  maxRank: count.default(16).describe('of vllm: its --max-lora-rank'),
})

export const previewOptions = z.strictObject({
  model: path.describe('a folder with the tokenizer; weights are not read'),
  data: paths.describe(dataSource),
  ...encoding,
  samples: index.default(3).describe('examples to show, from the start'),
})

export const reportOptions = z.strictObject({
  runs: z.array(path).nonempty().describe('folders of runs, what they had as output; drawn together'),
  output: path.optional().describe('the HTML file; default report.html in the first of them'),
})

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
  format: z.enum(recordFormats).default('auto').describe('text is evaluated as running text'),
  sequenceLength: count.default(512).describe('tokens of an example or of a piece of running text'),
  microBatchSize: count.default(4).describe('examples in the model at once'),
  limit: count.optional().describe('evaluates only the first sequences, examples or questions'),
  task: taskOptions.optional().describe('counts right answers instead of measuring perplexity'),
})

export const evaluateCommandOptions = inferenceOptions.extend(evaluateOptions.shape)

/** How text is generated. */
export const samplingOptions = z.strictObject({
  maxNewTokens: count.default(128).describe('at most so many; an end-of-sequence token ends earlier'),
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
  maxNewTokens: samplingOptions.shape.maxNewTokens.default(512),
})

export const generateCommandOptions = inferenceOptions.extend(generateOptions.shape)

export const buildCommandOptions = z.strictObject({
  cuda: z.boolean().default(false).describe('the CUDA library as well, with the nvcc of CUDA_HOME or PATH'),
  installNvcc: path
    .optional()
    .describe('implies cuda; where there is no nvcc, a folder for the one that pip brings (270 MB)'),
})

export const planCommandOptions = z.strictObject({
  model: path.describe('a folder with config.json, or a GGUF file; weights are not read'),
  prune: z
    .strictObject({
      ratio: fraction.describe('part of the channels and heads that goes'),
      layers: pruneShape.layers,
    })
    .optional(),
  quantize: z.enum(quantizations).default('nf4').describe('how the frozen base is held'),
  quantizeTables,
  lora: loraOptions.prefault({}),
  microBatchSize: count.default(4).describe('examples in the model at once'),
  sequenceLength: count.default(512).describe('tokens of an example'),
  recompute: schedule.recompute,
  offload: schedule.offload,
  memory: z
    .union([z.string(), count])
    .optional()
    .describe('budget in bytes or as "12 GiB", by default what is free on the GPU; refuses what needs more'),
  device: device.describe('where to train; the GPU need not be there; auto is what training would take here'),
})

function isRegularExpression(source: string): boolean {
  try {
    return Boolean(new RegExp(source))
  } catch {
    return false
  }
}

export type PruneOptions = z.input<typeof pruneCommandOptions>
export type AlignOptions = z.input<typeof alignCommandOptions>
export type RecoverOptions = z.input<typeof recoverCommandOptions>
export type MergeOptions = z.input<typeof mergeCommandOptions>
export type ExportOptions = z.input<typeof exportCommandOptions>
export type CheckAdapterOptions = z.input<typeof checkAdapterOptions>
export type InferenceOptions = z.input<typeof inferenceOptions>
export type ServeOptions = z.input<typeof serveOptions>
export type EvaluateOptions = z.input<typeof evaluateOptions>
export type PreviewOptions = z.input<typeof previewOptions>
export type ReportOptions = z.input<typeof reportOptions>
export type TaskOptions = z.input<typeof taskOptions>
export type GenerateOptions = z.input<typeof generateOptions>
export type SamplingOptions = z.input<typeof samplingOptions>
export type ChatMessage = z.input<typeof chatMessages>[number]
export type PlanOptions = z.input<typeof planCommandOptions>
