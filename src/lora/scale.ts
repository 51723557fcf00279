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

export interface ScaleTrial {
  scale: number
  /** Mean loss of the held-out targets. */
  loss: number
}

/** Six trials: 1, 0.75, 0.5 and 0.25, then an eighth above and below the best of these. */
export function bestScale(lossAt: (scale: number) => number): ScaleTrial {
  const best = (scales: number[]): ScaleTrial =>
    scales.map((scale) => ({ scale, loss: lossAt(scale) })).reduce((a, b) => (b.loss < a.loss ? b : a))
  const coarse = best([1, 0.75, 0.5, 0.25])
  const fine = best([coarse.scale + 0.125, coarse.scale - 0.125])
  return fine.loss < coarse.loss ? fine : coarse
}

/**
 * The factor on the update of a recovered adapter with which the large model predicts held-out targets best, of those that
 * {@link bestScale} tries. Each takes one forward pass of `examples` through `model`.
 * @param model keeps the adapter attached
 * @param onTrial hears of every factor that was tried
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
    for (const linear of linears(model).values()) {
      if (linear.lora) linear.lora = { ...linear.lora, scale: scaleOf(adapter) * scale }
    }
    const evaluation = evaluateExamples(model, examples, sizes, signal)
    if (!evaluation) throw new AbortError('recovery was aborted', { remedy: 'resume to go on from there' })
    const { loss } = evaluation
    onTrial({ scale, loss })
    return loss
  })
}
