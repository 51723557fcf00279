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
export const paths = z.union([path, z.array(path).nonempty()], { error: 'a path, or a list of paths' })

/** The formats of training records; `auto` tells them by their keys. */
export const recordFormats = ['auto', 'text', 'prompt-completion', 'alpaca', 'messages'] as const

export const device = z
  .enum(deviceNames)
  .default('auto')
  .describe('device to compute on; auto takes a usable GPU, else the CPU')
export const quantizeTables = z
  .boolean()
  .optional()
  .describe('hold embedding and output head in NF4 too; default: only where a base in NF4 does not fit otherwise')
export const fill = z
  .enum(fills)
  .default('zero')
  .describe('what fills the rows and columns of the adapter that were pruned')
export const cache = z.boolean().default(true).describe('keep the tokenised data for later runs')
export const scale = z.number().positive()
export const forceResume = z
  .boolean()
  .default(false)
  .describe('with resume: go on even if options, data or version differ from those of the run')
export const seed = index.default(42).describe('random seed')

export const schedule = {
  learningRate: z.number().positive().describe('peak learning rate, reached after warm-up'),
  schedule: z.enum(schedules).default('cosine').describe('how the learning rate changes after warm-up'),
  warmupSteps: index.default(0).describe('steps over which the learning rate rises from 0'),
  batchSize: count.describe('examples in an optimizer step'),
  microBatchSize: count.default(4).describe('examples in one forward and backward pass; memory grows with it'),
  weightDecay: z.number().min(0).default(0).describe("AdamW's weight decay"),
  maxGradNorm: z
    .number()
    .min(0)
    .default(1)
    .describe('the norm of all gradients together is clipped to this; 0 turns clipping off'),
  recompute: z
    .enum(recomputeChoices)
    .default('auto')
    .describe(
      'what the backward pass recomputes to save memory: norms and SwiGLU products (cheap), whole layers (full), or as little as fits (auto)',
    ),
  offload: z
    .boolean()
    .optional()
    .describe(
      'keep layer inputs in host memory instead of on the GPU; default: only where they do not fit, in training with outputs as well',
    ),
}

export const dataSource =
  'JSONL, JSON, Parquet or text: a file, a folder, a pattern such as data/*.jsonl, or a list of them'

/** How records become examples. */
export const encoding = {
  format: z.enum(recordFormats).default('auto').describe('format of the records; auto detects it from their keys'),
  sequenceLength: count.default(512).describe('maximum tokens per example; longer ones are truncated'),
  trainOn: z.enum(['answers', 'last-answer', 'all']).default('answers').describe('which tokens count in the loss'),
  onBadLine: z.enum(['fail', 'skip']).default('fail').describe('what to do with a malformed line'),
  deduplicate: z.boolean().default(false).describe('leave out records with the same text as an earlier one'),
  cache,
}
