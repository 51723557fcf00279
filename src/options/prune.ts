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

export const pruneOptions = z
  .strictObject({
    ...pruneShape,
    rotate: z
      .strictObject({
        every: count.default(10).describe('steps of training between two slices'),
        core: fraction.default(0).describe('part of the channels and heads that is in every slice, by importance'),
        hold: z
          .enum(holds)
          .default('streamed')
          .describe('resident keeps the pruned layers of the original in host memory'),
        rescale: z.boolean().default(false).describe('multiplies what is kept by one over its share'),
      })
      .optional()
      .describe('trains one adapter on slice after slice of the original instead of on one'),
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
