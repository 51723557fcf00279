import { z } from 'zod'
import { loraDefaults, targetModules } from '../lora/attach.ts'
import type { Fill } from '../lora/recover.ts'
import { quantizations } from '../model/weights.ts'
import { cutsStructures } from '../prune/methods.ts'
import { alignOptions } from './align.ts'
import {
  count,
  dataSource,
  device,
  encoding,
  fill,
  forceResume,
  fraction,
  index,
  path,
  paths,
  quantizeTables,
  scale,
  schedule,
  seed,
} from './common.ts'
import { pruneOptions, pruneShape } from './prune.ts'

export const dataOptions = z
  .strictObject({
    train: paths.describe(dataSource).meta({ examples: ['train.jsonl'] }),
    eval: paths
      .optional()
      .describe('held-out data, evaluated during training; the adapter with the lowest loss on it is kept')
      .meta({ examples: ['eval.jsonl'] }),
    evalSplit: fraction
      .default(0)
      .describe('instead of eval: fraction of the training data to hold out, chosen by a hash of the prompt'),
    ...encoding,
    packing: z.boolean().default(false).describe('fill rows of sequenceLength tokens with whole examples'),
  })
  .refine(({ eval: held, evalSplit }) => held === undefined || evalSplit === 0, {
    path: ['evalSplit'],
    message: '0 where data.eval is given',
  })

export const loraOptions = z.strictObject({
  rank: count.default(loraDefaults.rank).describe('rank of the adapter: the inner dimension of the pairs A and B'),
  alpha: z.number().positive().default(loraDefaults.alpha).describe("the adapter's update is scaled by alpha / rank"),
  dropout: fraction
    .default(loraDefaults.dropout)
    .describe("fraction of the adapter's input that is dropped in training"),
  useRslora: z
    .boolean()
    .default(loraDefaults.useRslora)
    .describe("scale the adapter's update by alpha / sqrt(rank) instead"),
  targets: z
    .array(z.enum(targetModules))
    .nonempty()
    .default([...loraDefaults.targets])
    .describe('modules that get a pair of LoRA matrices'),
})

export const scheduleOptions = z.strictObject({
  ...schedule,
  epochs: z.number().positive().default(1).describe('passes over the training data; fractions are allowed'),
  maxSteps: count.optional().describe('stop after this many steps, if epochs would take more'),
  learningRate: schedule.learningRate.default(1e-4),
  batchSize: schedule.batchSize.default(128),
  evalSteps: count.default(50).describe('steps between evaluations'),
  patience: count.optional().describe('stop after this many evaluations in a row without a better loss'),
  preserve: z
    .strictObject({
      data: paths.describe('running text: .txt, or JSONL or Parquet with "text"').meta({ examples: ['corpus.txt'] }),
      weight: z
        .number()
        .positive()
        .default(1)
        .describe('factor on the mean divergence, in nats, that is added to the loss'),
      batchSize: count.default(8).describe('sequences of preserved text in a step, of data.sequenceLength tokens each'),
    })
    .optional()
    .describe('keep the predictions on other text close to those of the model without the adapter'),
  saveSteps: count.default(50).describe('steps between checkpoints'),
  keepCheckpoints: count.default(2).describe('number of checkpoints to keep; older ones are removed'),
})

export const logOptions = z.strictObject({
  samples: index
    .default(0)
    .describe('number of evaluation prompts, from the first, to answer before and after training, for the report'),
  tensorboard: z.boolean().default(false).describe('write events for TensorBoard to run/tensorboard in output'),
  prometheus: path
    .optional()
    .describe("keep this file up to date in Prometheus' text format, for node_exporter's textfile collector")
    .meta({ examples: ['/var/lib/node_exporter/loram.prom'] }),
})

interface AcrossSections {
  prune?: z.output<typeof pruneOptions> | undefined
  align?: object | undefined
  data: { eval?: unknown; evalSplit: number }
  train: { patience?: number | undefined }
  recover: { fill: Fill; scale: number | 'auto'; finish?: object | undefined }
}

/** What options ask of each other across sections. */
function checkRun({ prune, align, data, train, recover }: AcrossSections, context: z.RefinementCtx): void {
  const refuse = (path: string[], message: string) => context.addIssue({ code: 'custom', path, message })
  if (prune?.rotate) {
    const { method, rotate } = prune
    if (!cutsStructures(method)) refuse(['prune', 'rotate'], 'method structured or random with it')
    if (method === 'random' && rotate.core > 0) refuse(['prune', 'rotate', 'core'], 'method structured with a core')
    if (align) refuse(['align'], 'none with prune.rotate: each slice would want an alignment of its own')
    if (recover.fill !== 'zero') refuse(['recover', 'fill'], 'none with prune.rotate: nothing is left to fill')
  }
  const isEvaluated = data.eval !== undefined || data.evalSplit > 0
  if (train.patience && !isEvaluated) refuse(['train', 'patience'], 'data.eval or data.evalSplit with it')
  if (prune && !cutsStructures(prune.method) && recover.fill !== 'zero') {
    refuse(['recover', 'fill'], 'method structured or random with it: other methods leave nothing to fill')
  }
  if (recover.finish && !prune) refuse(['recover', 'finish'], 'prune with it: it is the original that is trained on')
  if (recover.scale !== 'auto') return
  if (!prune) refuse(['recover', 'scale'], 'a number: auto needs the large model, which only a run that prunes it has')
  if (!isEvaluated) refuse(['recover', 'scale'], 'data.eval or data.evalSplit with auto')
}

/** Everything `trainLoRAM` takes, and what a configuration file holds. */
export const trainLoRAMOptions = z
  .strictObject({
    model: path
      .describe('a Hugging Face folder with safetensors, original or pruned by loram, or a GGUF file')
      .meta({ examples: ['./model'] }),
    data: dataOptions,
    prune: pruneOptions.optional().describe('how to prune; without this section, training runs on the model as it is'),
    align: alignOptions.optional().describe('continual pre-training of the pruned model'),
    quantize: z
      .enum(quantizations)
      .default('nf4')
      .describe("format of the frozen base's weights in memory while LoRA trains"),
    quantizeTables,
    lora: loraOptions.prefault({}),
    train: scheduleOptions.prefault({}),
    recover: z
      .strictObject({
        fill,
        scale: z
          .union([scale, z.literal('auto')])
          .default(1)
          .describe(
            'factor by which the recovered update is multiplied; auto chooses one for attention and one for the MLP by the loss of the large model on the held-out data',
          ),
        finish: z
          .strictObject({
            steps: count.describe('number of optimizer steps').meta({ examples: [20] }),
            learningRate: schedule.learningRate.default(1e-4),
          })
          .optional()
          .describe('train the recovered adapter for a few more steps on the original, which must fit the memory'),
      })
      .prefault({}),
    output: path
      .describe('folder for the adapter and, in run/, for checkpoints and everything else that the run writes')
      .meta({ examples: ['./adapter'] }),
    memory: z
      .union([z.string(), count], { error: 'bytes, or a text such as 12 GiB' })
      .optional()
      .describe(
        'memory budget in bytes or as "12 GiB"; default: what is free on the GPU. Layers are recomputed to fit, or the run is refused; if given, and prune has no ratio, it decides the ratio',
      )
      .meta({ examples: ['12 GiB'] }),
    log: logOptions.prefault({}),
    resume: z.boolean().default(false).describe('continue from the last checkpoint in output'),
    forceResume,
    device,
    seed,
  })
  .superRefine(checkRun)

export type TrainLoRAMOptions = z.input<typeof trainLoRAMOptions>
export type ResolvedOptions = z.output<typeof trainLoRAMOptions>

export const planCommandOptions = z.strictObject({
  model: path.describe('a folder with config.json, or a GGUF file; weights are not read'),
  prune: z
    .strictObject({
      ratio: fraction.describe('fraction of the channels and heads to prune'),
      layers: pruneShape.layers,
    })
    .optional(),
  quantize: z.enum(quantizations).default('nf4').describe("format of the frozen base's weights in memory"),
  quantizeTables,
  lora: loraOptions.prefault({}),
  microBatchSize: count.default(4).describe('examples in one forward and backward pass'),
  sequenceLength: count.default(512).describe('tokens in an example'),
  recompute: schedule.recompute,
  offload: schedule.offload,
  memory: z
    .union([z.string(), count])
    .optional()
    .describe(
      'memory budget in bytes or as "12 GiB"; default: what is free on the GPU; a plan that needs more is refused',
    ),
  gpus: count
    .optional()
    .describe('also plan the alignment of all weights, divided among 1, 2, 4, … up to this many GPUs'),
  device: device.describe('device to plan for; a GPU need not be there; auto is what training would take here'),
})

export type PlanOptions = z.input<typeof planCommandOptions>
