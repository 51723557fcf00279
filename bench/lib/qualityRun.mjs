import { mkdtempSync, rmSync } from 'node:fs'
import path from 'node:path'
import { readAdapter } from '../../dist/formats/peft.js'
import { factorsOf, scaleAdapter } from '../../dist/lora/scale.js'
import { trainLoRAMOptions } from '../../dist/options/index.js'
import { trainLoRAMRun } from '../../dist/train/run.js'
import { validate } from '../../dist/validate.js'
import { factorName, factorOf, shared } from './recipes.mjs'

/**
 * Trains and recovers as a recipe says, and measures on the original.
 * @param {import('./recipes.mjs').Recipe} recipe
 * @param setting `model`, `data` of prepareData, `judge`, `device`, `seed`, `maxSteps`, `work` and `signal`
 * @throws {AbortError} the signal
 */
export async function runRecipe({ options, factors = [] }, setting) {
  if (!options) return measure(setting.judge)
  const output = mkdtempSync(path.join(setting.work, 'run-'))
  try {
    const given = validate(trainLoRAMOptions, { ...optionsOf(options, setting), output })
    const { emit, summary } = watch()
    const { metrics } = await trainLoRAMRun(given, { emit, signal: setting.signal })
    const adapter = readAdapter(output)
    const scale = metrics.recovery?.scale ?? given.recover.scale
    const taken = factorsOf(scale)
    const atFactors = {}
    for (const factor of factors) {
      const scaled = scaleAdapter(adapter, (module) => factorOf(factor, module) / taken(module))
      atFactors[factorName(factor)] = await setting.judge.perplexity(scaled)
    }
    return {
      ...(await measure(setting.judge, adapter)),
      ...(factors.length > 0 && { factors: atFactors }),
      ...summary(),
      steps: metrics.steps,
      scale,
      parameters: metrics.plan.parameters.trained,
      plannedBytes: metrics.plan.bytes.total,
    }
  } finally {
    rmSync(output, { recursive: true })
  }
}

async function measure(judge, adapter) {
  const began = performance.now()
  const perplexity = await judge.perplexity(adapter)
  const exactMatch = await judge.exactMatch?.(adapter)
  return { perplexity, ...(exactMatch && { exactMatch }), evaluateSeconds: secondsSince(began) }
}

const secondsSince = (began) => (performance.now() - began) / 1000

/**
 * A recipe as trainLoRAM takes it: with running text where it wants some and names none.
 * @param {any} recipe
 */
export function optionsOf(
  { prune, align, train = shared.train, data, ...rest },
  { model, data: { text, ...files }, ...setting },
) {
  const { maxSteps = Number.POSITIVE_INFINITY } = setting
  const withText = (options) => ({ data: text, ...options })
  const steps = Math.min(train.maxSteps ?? maxSteps, maxSteps)
  const { calibration } = prune ?? {}
  const { preserve } = train
  return {
    ...shared,
    ...rest,
    model,
    device: setting.device.kind,
    seed: setting.seed,
    data: { train: files.train, ...data },
    train: {
      ...train,
      ...unwatched,
      ...(preserve && { preserve: withText(preserve) }),
      ...(Number.isFinite(steps) && { maxSteps: steps }),
    },
    ...(prune && { prune: { ...prune, ...(calibration && { calibration: withText(calibration) }) } }),
    ...(align && { align: { ...withText(align), steps: Math.min(align.steps, maxSteps) } }),
  }
}

/** Rows are short: nothing is saved or evaluated on the way. */
const unwatched = { saveSteps: 10 ** 6, evalSteps: 10 ** 6 }

/** Listens to a run: seconds of its stages, and loss and speed of training once it is under way. */
function watch() {
  const began = {}
  const seconds = {}
  const steps = []
  return {
    emit(event) {
      if (event.type === 'step' && event.stage === 'train') steps.push(event)
      if (event.type !== 'stage') return
      if (event.status === 'started') began[event.stage] = performance.now()
      else seconds[event.stage] = secondsSince(began[event.stage])
    },
    summary: () => ({
      seconds,
      tokensPerSecond: Math.round(median(steps.map(({ tokensPerSecond }) => tokensPerSecond))),
      trainLoss: mean(steps.slice(-20).map(({ loss }) => loss)),
    }),
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1]
