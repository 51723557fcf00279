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
  preserve: z
    .strictObject({
      data: paths.describe('running text: .txt, or JSONL or Parquet with "text"').meta({ examples: ['corpus.txt'] }),
      weight: z.number().positive().default(1).describe('what a mean divergence of 1 nat adds to the loss'),
      batchSize: count.default(8).describe('sequences of data.sequenceLength tokens in a step'),
    })
    .optional()
    .describe('keeps what the model predicts of other text as it is without the adapter'),
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
          .describe(
            'factor on the recovered update; auto tries some, for attention and MLP, with the large model on data.eval',
          ),
        finish: z
          .strictObject({
            steps: count.describe('optimizer steps').meta({ examples: [20] }),
            learningRate: schedule.learningRate.default(1e-4),
          })
          .optional()
          .describe('trains the recovered adapter on the original for a few steps more, which must fit the memory'),
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
  gpus: count
    .optional()
    .describe('also what aligning all weights takes on each of so many GPUs and fewer, which divide them'),
  device: device.describe('where to train; the GPU need not be there; auto is what training would take here'),
})

export type PlanOptions = z.input<typeof planCommandOptions>
