/**
 * The rows of the table of quality, by name: `title` as the table has it, and `options`, what the row changes of
 * {@link shared}. A row without options trains nothing. `factors` are further factors on the recovered update to measure.
 * Rows of the group `search` look for a better recipe, and are run by name only.
 * @typedef {{ title: string, group?: 'search', options?: object, factors?: number[] }} Recipe
 */

/** What all rows share: the paper's recipe at the size of this model. */
export const shared = {
  quantize: 'nf4',
  lora: { rank: 8, alpha: 16, dropout: 0 },
  train: { epochs: 2, batchSize: 32, microBatchSize: 32, learningRate: 5e-4, warmupSteps: 13 },
}

/** Steps, and not passes, so that no row's alignment depends on how the text is cut. */
const align = { steps: 192, batchSize: 32, microBatchSize: 32, sequenceLength: 512, learningRate: 5e-4, warmupSteps: 5 }
const half = (prune) => ({ ratio: 0.5, ...prune })
const windows = { samples: 10, sequenceLength: 512 }
const random = half({ method: 'random' })
const taylor = half({ criterion: 'taylor', calibration: windows })

/** Rotating slices with a core, the recovered update times the factor that held-out data choose. */
const rotating = (rotate, { train, ...over } = {}) => ({
  prune: { ...taylor, rotate: { every: 1, core: 0.25, rescale: true, ...rotate } },
  ...(train && { train: { ...shared.train, ...train } }),
  data: { evalSplit: 0.03 },
  recover: { scale: 'auto' },
  ...over,
})
const factors = [0.25, 0.5, 0.75]

/** @type {Record<string, Recipe>} */
export const recipes = {
  base: { title: 'base' },
  lora: { title: 'LoRA on the full model in bf16: the ceiling', options: { quantize: 'none' } },
  qlora: { title: 'LoRA on the full model in NF4', options: {} },
  random: { title: 'random', options: { prune: random } },
  'random-align': { title: 'random, aligned', options: { prune: random, align } },
  taylor: { title: 'Taylor, first order', options: { prune: taylor } },
  'taylor-align': { title: 'Taylor, first order, aligned', options: { prune: taylor, align } },
  'taylor-second': {
    title: 'Taylor, second order',
    options: { prune: { ...taylor, criterion: 'taylor-second' } },
  },
  magnitude: { title: 'magnitude', options: { prune: half({ criterion: 'magnitude' }) } },
  'semi-structured': {
    title: 'semi-structured 2:4, SparseGPT',
    options: { prune: { method: 'semi-structured', pattern: '2:4', criterion: 'sparsegpt', calibration: {} } },
  },
  'semi-structured-wanda': {
    title: 'semi-structured 4:8, Wanda',
    options: { prune: { method: 'semi-structured', pattern: '4:8', criterion: 'wanda', calibration: {} } },
  },
  unstructured: {
    title: 'unstructured, SparseGPT',
    options: { prune: half({ method: 'unstructured', criterion: 'sparsegpt', calibration: {} }) },
  },
  'unstructured-magnitude': {
    title: 'unstructured, magnitude',
    options: { prune: half({ method: 'unstructured', criterion: 'magnitude' }) },
  },
  distill: {
    title: 'random, aligned by distillation',
    options: { prune: random, align: { ...align, distill: {} } },
  },
  rotate: { title: 'rotating slices', options: rotating({}), factors },

  'random-bf16': { title: 'random, base in bf16', group: 'search', options: { prune: random, quantize: 'none' } },
  'random-align-bf16': {
    title: 'random, aligned, base in bf16',
    group: 'search',
    options: { prune: random, align, quantize: 'none' },
  },
}

/** Those that are measured where none is named. */
export const rowsOfTable = Object.keys(recipes).filter((name) => recipes[name].group === undefined)
