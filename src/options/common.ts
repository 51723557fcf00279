import { z } from 'zod'
import { fills } from '../lora/recover.ts'
import { deviceNames } from '../tensor/device.ts'
import { recomputeChoices } from '../train/recompute.ts'
import { schedules } from '../train/schedule.ts'

// What several commands share.

export const count = z.int().positive()
export const index = z.int().nonnegative()
export const fraction = z.number().min(0).lt(1)
export const path = z.string().nonempty()
export const paths = z.union([path, z.array(path).nonempty()])

/** The formats of training records; `auto` tells them by their keys. */
export const recordFormats = ['auto', 'text', 'prompt-completion', 'alpaca', 'messages'] as const

export const device = z
  .enum(deviceNames)
  .default('auto')
  .describe('where to compute; auto takes a usable GPU, else the CPU')
export const quantizeTables = z
  .boolean()
  .optional()
  .describe('holds embedding and output head in NF4 too; by default only where the base in NF4 fits no other way')
export const fill = z.enum(fills).default('zero').describe('what rows and columns that were cut are filled with')
export const cache = z.boolean().default(true).describe('keeps the encoded data for further runs: docs/data.md')
export const scale = z.number().positive()
export const forceResume = z
  .boolean()
  .default(false)
  .describe('resume although options, data or version are not those of the run')
export const seed = index.default(42).describe('of everything random')

export const schedule = {
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

export const dataSource =
  'JSONL, JSON, Parquet or text: a file, a folder, a pattern such as data/*.jsonl, or a list of them'

/** How records become examples. */
export const encoding = {
  format: z.enum(recordFormats).default('auto').describe('of the records; auto tells by their keys'),
  sequenceLength: count.default(512).describe('tokens of an example; longer ones lose their end'),
  trainOn: z.enum(['answers', 'last-answer', 'all']).default('answers').describe('what is learnt'),
  onBadLine: z.enum(['fail', 'skip']).default('fail').describe('what a line that is no record does'),
  deduplicate: z.boolean().default(false).describe('leaves out records that say what an earlier one said'),
  cache,
}
