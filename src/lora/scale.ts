import type { Examples } from '../data/encode.ts'
import { AbortError } from '../errors.ts'
import { evaluateExamples } from '../infer/perplexity.ts'
import { linears, type Model } from '../model/model.ts'
import type { StopSignal } from '../worker/protocol.ts'
import { type Adapter, scaleOf } from './adapter.ts'
import { attachAdapter } from './attach.ts'

/** The adapter with the update of each module multiplied by a factor: rank and alpha stay, B changes. */
export function scaleAdapter(adapter: Adapter, factorOf: (module: string) => number): Adapter {
  const modules = Array.from(adapter.modules, ([name, { a, b }]) => {
    const factor = factorOf(name)
    return [name, { a, b: { ...b, data: b.data.map((value) => value * factor) } }] as const
  })
  return { ...adapter, modules: new Map(modules) }
}

/** Factors on the update of attention's projections, and of all other modules. */
export interface Factors {
  attention: number
  mlp: number
}

export interface ScaleTrial {
  scale: Factors
  /** Mean loss of the held-out targets. */
  loss: number
}

/** One factor for all modules, or two, as {@link scaleAdapter} takes them. */
export function factorsOf(scale: number | Factors): (module: string) => number {
  if (typeof scale === 'number') return () => scale
  return (module) => (module.includes('.self_attn.') ? scale.attention : scale.mlp)
}

/** At most eight trials: 1, 0.75, 0.5 and 0.25 for all modules, then a quarter more and less for attention, then for the others. */
export function bestScale(lossAt: (scale: Factors) => number): ScaleTrial {
  const best = (scales: Factors[], known: ScaleTrial[] = []): ScaleTrial =>
    [...known, ...scales.map((scale) => ({ scale, loss: lossAt(scale) }))].reduce((a, b) => (b.loss < a.loss ? b : a))
  const beside = (trial: ScaleTrial, part: keyof Factors): ScaleTrial => {
    const factors = [trial.scale[part] + 0.25, trial.scale[part] - 0.25].filter((factor) => factor > 0)
    return best(
      factors.map((factor) => ({ ...trial.scale, [part]: factor })),
      [trial],
    )
  }
  const uniform = best([1, 0.75, 0.5, 0.25].map((factor) => ({ attention: factor, mlp: factor })))
  return beside(beside(uniform, 'attention'), 'mlp')
}

/**
 * The factors on the update of a recovered adapter with which the large model predicts held-out targets best, of those that
 * {@link bestScale} tries. Each trial takes one forward pass of `examples` through `model`.
 * @param model keeps the adapter attached
 * @param onTrial hears of all that were tried
 * @throws {AbortError} the signal
 */
export function searchScale(
  model: Model,
  adapter: Adapter,
  examples: Examples,
  sizes: { microBatchSize: number; sequenceLength: number },
  signal: StopSignal,
  onTrial: (trial: ScaleTrial) => void,
): ScaleTrial {
  attachAdapter(model, adapter)
  return bestScale((scale) => {
    const factorOf = factorsOf(scale)
    for (const [name, linear] of linears(model)) {
      if (linear.lora) linear.lora = { ...linear.lora, scale: scaleOf(adapter) * factorOf(name) }
    }
    const evaluation = evaluateExamples(model, examples, sizes, signal)
    if (!evaluation) throw new AbortError('recovery was aborted', { remedy: 'resume to go on from there' })
    const { loss } = evaluation
    onTrial({ scale, loss })
    return loss
  })
}
