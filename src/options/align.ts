import { z } from 'zod'
import { holds } from '../model/open.ts'
import { quantizations } from '../model/weights.ts'
import { cache, count, device, forceResume, path, paths, schedule, seed } from './common.ts'

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

export const alignCommandOptions = alignOptions.extend({
  model: path.describe('a pruned model'),
  output: path.describe('new folder for the aligned model'),
  cache,
  resume: z.boolean().default(false).describe('go on from the last checkpoint'),
  forceResume,
  device,
  seed,
})

export type AlignOptions = z.input<typeof alignCommandOptions>
