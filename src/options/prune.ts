import { z } from 'zod'
import { groupPatterns } from '../formats/pruningJson.ts'
import { holds } from '../model/open.ts'
import { allocations, groupings } from '../prune/importance.ts'
import {
  type Criterion,
  criteria,
  criteriaOf,
  cutsStructures,
  defaultCriterion,
  needsText,
  pruneMethods,
} from '../prune/methods.ts'
import { count, device, fraction, index, path, paths, seed } from './common.ts'

export const pruneShape = {
  method: z
    .enum(pruneMethods)
    .default('structured')
    .describe('structured and random cut channels and heads; semi-structured and unstructured zero single weights'),
  criterion: z
    .enum(criteria)
    .optional()
    .describe(
      'how importance is measured; the least important is pruned first; default taylor, or sparsegpt for single weights',
    ),
  ratio: fraction
    .optional()
    .describe('fraction to prune (default 0.65; unstructured 0.55; with memory, the smallest that fits)'),
  targetParams: z
    .union([z.string(), count])
    .optional()
    .describe('instead of ratio: the most parameters that the pruned model may have, such as 17.85B')
    .meta({ examples: ['17.85B'] }),
  allocation: z
    .enum(allocations)
    .optional()
    .describe(
      'how much each layer loses: the same fraction (uniform, the default), or less where its channels and heads matter more for their size (importance)',
    ),
  pattern: z
    .enum(groupPatterns)
    .optional()
    .describe('for semi-structured: how many of how many neighbouring weights become zero; default 4:8'),
  layers: z
    .tuple([index, index])
    .optional()
    .describe(
      'layers to prune, from the first number up to but not including the second; default: all but the first 4 and last 2, or all layers for single weights',
    ),
  grouping: z
    .enum(groupings)
    .optional()
    .describe(
      'for structured: the kv head to whose importance a query head adds: the one that it reads (aligned, the default), or as in LLM-Pruner (llm-pruner)',
    ),
  calibration: z
    .strictObject({
      data: paths
        .optional()
        .describe('text on which the criterion is measured; in a training run, default: its training data'),
      samples: count
        .optional()
        .describe('number of windows of calibration text; default 10, or 128 for single weights'),
      sequenceLength: count
        .optional()
        .describe('tokens in a window of calibration text; default 64, or 2048 for single weights'),
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

export const pruneOptions = z
  .strictObject({
    ...pruneShape,
    rotate: z
      .strictObject({
        every: count.default(10).describe('training steps until the next slice'),
        core: fraction
          .default(0)
          .describe('fraction of the channels and heads, the most important ones, that is in every slice'),
        hold: z
          .enum(holds)
          .default('streamed')
          .describe(
            'where new slices are cut from: the files of the original (streamed), or a copy of its pruned layers in host memory (resident)',
          ),
        rescale: z
          .boolean()
          .default(false)
          .describe('multiply the outputs of the kept channels and heads by one over the fraction that is kept'),
      })
      .optional()
      .describe('train one adapter on slice after slice of the original instead of on one pruned model'),
  })
  .superRefine(checkPrune)

export const pruneCommandOptions = z
  .strictObject({
    ...pruneShape,
    model: path.describe('the model to prune'),
    output: path.describe('new folder for the pruned model'),
    device,
    seed,
  })
  .superRefine(checkPrune)

export type PruneOptions = z.input<typeof pruneCommandOptions>
