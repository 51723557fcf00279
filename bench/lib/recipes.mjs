/**
 * The rows of the table of quality, by name: `title` as the table has it, and `options`, what the row changes of
 * {@link shared}. A row without options trains nothing. `factors` are further factors on the recovered update to measure:
 * a number on all of it, or one by `attention`, `mlp` or a projection's name, which leaves other modules as they are.
 * @typedef {{ title: string, options?: object, factors?: Factor[] }} Recipe
 * @typedef {number | Record<string, number>} Factor
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

/** Slices that rotate with every step around a core; held-out data choose the factors on the update. */
const rotating = ({ rotate = {}, train = {}, recover = {} } = {}) => ({
  prune: half({ calibration: onTask, rotate: { every: 1, core: 0.25, hold: 'resident', ...rotate } }),
  train: { ...shared.train, ...train },
  data: { evalSplit: 0.03 },
  recover: { scale: 'auto', ...recover },
})
const rescaled = { rescale: true }
const uniform = [0.25, 0.5, 0.75, 1]
const byModule = [0.5, 0.75, 1].flatMap((attention) =>
  [0.5, 0.75, 1].filter((mlp) => mlp !== attention).map((mlp) => ({ attention, mlp })),
)

/** Predictions of running text that training shall not change; a nat of divergence costs as much as one of loss. */
const preserve = { preserve: { weight: 1, batchSize: 4 } }
const finish = { steps: 20, learningRate: 2e-4 }

/** @type {Record<string, Recipe>} */
export const recipes = {
  base: { title: 'base' },
  lora: { title: 'LoRA on the full model in bf16: the ceiling', options: { quantize: 'none' } },
  qlora: { title: 'LoRA on the full model in NF4', options: {} },
  random: { title: 'random', options: { prune: random } },
  'random-bf16': { title: 'random, base in bf16', options: { prune: random, quantize: 'none' } },
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
  'rotate-rescaled': {
    title: 'rotating slices, kept channels rescaled',
    options: rotating({ rotate: rescaled }),
    factors: uniform,
  },
  'rotate-preserve-rescaled': {
    title: 'rotating slices, kept channels rescaled, predictions preserved',
    options: rotating({ rotate: rescaled, train: preserve }),
    factors: uniform,
  },
  'rotate-preserve-rescaled-finish': {
    title: 'rotating slices, kept channels rescaled, predictions preserved, 20 steps on the full model',
    options: rotating({ rotate: rescaled, train: preserve, recover: { finish } }),
  },
  'rotate-preserve-unscaled': {
    title: 'rotating slices, kept channels as they are, predictions preserved',
    options: rotating({ train: preserve }),
    factors: [...uniform, ...byModule],
  },
  'rotate-preserve-unscaled-finish': {
    title: 'rotating slices, kept channels as they are, predictions preserved, 20 steps on the full model',
    options: rotating({ train: preserve, recover: { finish } }),
  },
  'lora-20': {
    title: 'LoRA on the full model in NF4, 20 steps alone',
    options: { train: { ...shared.train, learningRate: finish.learningRate, warmupSteps: 2, maxSteps: finish.steps } },
  },
}

/**
 * A factor on the update of a module, by the module's full name.
 * @param {Factor} factor
 * @param {string} module
 */
export function factorOf(factor, module) {
  if (typeof factor === 'number') return factor
  const named = module.replace('self_attn', 'attention').split('.')
  return factor[named.findLast((part) => part in factor)] ?? 1
}

/**
 * As results and the table have it.
 * @param {Factor} factor
 */
export const factorName = (factor) =>
  typeof factor === 'number'
    ? String(factor)
    : Object.entries(factor)
        .map((entry) => entry.join(' '))
        .join(', ')
