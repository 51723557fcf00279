import { z } from 'zod'
import { holds } from '../model/open.ts'
import { quantizations } from '../model/weights.ts'
import { cache, count, device, forceResume, path, paths, schedule, seed } from './common.ts'

export const alignOptions = z.strictObject({
  ...schedule,
  data: paths.describe('running text: .txt, or JSONL or Parquet with "text"').meta({ examples: ['corpus.txt'] }),
  steps: count.describe('number of optimizer steps').meta({ examples: [400] }),
  learningRate: schedule.learningRate.default(5e-5),
  batchSize: schedule.batchSize.default(128),
  sequenceLength: count.default(512).describe('tokens in an example'),
  lora: z
    .strictObject({
      rank: count.default(32).describe('rank of the pairs, which all seven projections get'),
      alpha: z.number().positive().default(64).describe("the pairs' update is scaled by alpha / rank"),
      quantize: z
        .enum(quantizations)
        .default('nf4')
        .describe('format of the pruned weights in memory while the pairs train'),
    })
    .optional()
    .describe(
      'to save memory, train LoRA pairs and merge them into the pruned weights, instead of training the weights',
    ),
  distill: z
    .strictObject({
      teacher: path.optional().describe('the original model; default: the one that the run prunes'),
      weight: z
        .number()
        .gt(0)
        .max(1)
        .default(0.5)
        .describe(
          "share of the loss that is the divergence from the teacher's predictions; the rest is that of the next token",
        ),
      temperature: z
        .number()
        .positive()
        .default(1)
        .describe('softens the predictions of both models before they are compared'),
      quantize: z.enum(quantizations).default('nf4').describe("format of the teacher's weights in memory"),
      hold: z
        .enum(holds)
        .default('resident')
        .describe(
          'what is in memory: the whole teacher (resident), or one layer at a time, read again for every micro-batch (streamed)',
        ),
    })
    .optional()
    .describe("learn the original's predictions as well as the next tokens"),
})

export const alignCommandOptions = alignOptions.extend({
  model: path.describe('the pruned model to align'),
  output: path.describe('new folder for the aligned model'),
  cache,
  resume: z.boolean().default(false).describe('continue from the last checkpoint'),
  forceResume,
  device,
  seed,
})

export type AlignOptions = z.input<typeof alignCommandOptions>
