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

/** Importance on what is trained on, instead of running text. */
const onTask = { data: undefined, samples: 64, sequenceLength: 256 }

/** Slices that rotate with every step around a core; held-out data choose the factor on the update. */
const rotating = ({ rotate = {}, train = {}, recover = {} } = {}) => ({
  prune: half({ calibration: onTask, rotate: { every: 1, core: 0.25, rescale: true, hold: 'resident', ...rotate } }),
  train: { ...shared.train, ...train },
  data: { evalSplit: 0.03 },
  recover: { scale: 'auto', ...recover },
})
const factors = [0.25, 0.5, 0.75, 1]

/** Predictions of running text that training shall not change; `weight` is what a nat of divergence costs. */
const preserving = (weight) => ({ preserve: { weight, batchSize: 4 } })
const finish = { steps: 20, learningRate: 2e-4 }

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
  rotate: { title: 'rotating slices', options: rotating(), factors },
  'rotate-preserve': {
    title: 'rotating slices, predictions preserved',
    options: rotating({ train: preserving(1) }),
    factors,
  },
  'rotate-preserve-finish': {
    title: 'rotating slices, predictions preserved, 20 steps on the full model',
    options: rotating({ train: preserving(1), recover: { finish } }),
  },
  'lora-20': {
    title: 'LoRA on the full model in NF4, 20 steps alone',
    options: { train: { ...shared.train, learningRate: finish.learningRate, warmupSteps: 2, maxSteps: finish.steps } },
  },

  ...searched({
    'random-bf16': { title: 'random, base in bf16', options: { prune: random, quantize: 'none' } },
    'random-align-bf16': {
      title: 'random, aligned, base in bf16',
      options: { prune: random, align, quantize: 'none' },
    },
    'taylor-task': { title: 'Taylor on the task', options: { prune: half({ calibration: onTask }) } },
    'taylor-preserve': {
      title: 'Taylor, predictions preserved',
      options: { prune: taylor, train: { ...shared.train, ...preserving(1) } },
      factors,
    },
    'taylor-align-preserve': {
      title: 'Taylor, aligned, predictions preserved',
      options: { prune: taylor, align, train: { ...shared.train, ...preserving(1) } },
      factors,
    },
    'rotate-preserve-0.3': { title: 'preserved by 0.3', options: rotating({ train: preserving(0.3) }), factors },
    'rotate-preserve-4': { title: 'preserved by 4', options: rotating({ train: preserving(4) }), factors },
    'rotate-preserve-core-0.4': {
      title: 'preserved by 1, core 0.4',
      options: rotating({ rotate: { core: 0.4 }, train: preserving(1) }),
      factors,
    },
    'rotate-preserve-unscaled': {
      title: 'preserved by 1, kept channels as they are',
      options: rotating({ rotate: { rescale: false }, train: preserving(1) }),
      factors,
    },
    'rotate-preserve-slow': {
      title: 'preserved by 1, learning rate 2e-4',
      options: rotating({ train: { ...preserving(1), learningRate: 2e-4 } }),
      factors,
    },
    'rotate-preserve-every-4': {
      title: 'preserved by 1, a slice every 4 steps',
      options: rotating({ rotate: { every: 4 }, train: preserving(1) }),
      factors,
    },
    'rotate-preserve-unscaled-finish': {
      title: 'preserved by 1, kept channels as they are, 20 steps on the full model',
      options: rotating({ rotate: { rescale: false }, train: preserving(1), recover: { finish } }),
    },
    'taylor-finish': { title: 'Taylor, 20 steps on the full model', options: { prune: taylor, recover: { finish } } },
    'rotate-preserve-finish-40': {
      title: 'preserved by 1, 40 steps on the full model',
      options: rotating({ train: preserving(1), recover: { finish: { ...finish, steps: 40 } } }),
    },
  }),
}

function searched(rows) {
  return Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, { ...row, group: 'search' }]))
}

/** Those that are measured where none is named. */
export const rowsOfTable = Object.keys(recipes).filter((name) => recipes[name].group === undefined)
