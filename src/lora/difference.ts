import { randomIntegers } from '../data/random.ts'
import { arenaFor } from '../memory/measure.ts'
import { logitsOf, type Model, modelForward } from '../model/model.ts'
import { openModelFolder, readModel } from '../model/open.ts'
import type { Arena } from '../tensor/arena.ts'
import { cpu } from '../tensor/device.ts'
import { toDevice } from '../train/step.ts'
import type { Adapter } from './adapter.ts'
import { attachAdapter } from './attach.ts'

/** How far the logits of a merged model are from those of its base with the adapter unmerged. */
export interface LogitDifference {
  /** Mean magnitude of the differences. */
  mean: number
  /** The largest of them. */
  largest: number
  /** Mean magnitude of what the adapter changes: how much there is to lose. */
  adapter: number
}

/** What `merge` tells of the model that it wrote. */
export interface MergeResult {
  /** Where the weights are in NF4. */
  logitDifference?: LogitDifference
}

/** One sequence of so many tokens. */
const length = 64

/**
 * Compares the model in `mergedDir` with the one in `baseDir` and `adapter`, by the logits of a sequence of 64 random tokens,
 * on the CPU. Holds one model at a time.
 */
export function logitDifference(baseDir: string, adapter: Adapter, mergedDir: string): LogitDifference {
  const [plain, adapted] = withModel(baseDir, (model) => {
    const before = randomLogits(model)
    attachAdapter(model, adapter)
    return [before, randomLogits(model)] as const
  })
  const merged = withModel(mergedDir, randomLogits)
  const lost = distances(merged, adapted)
  const largest = lost.reduce((most, distance) => Math.max(most, distance))
  return { mean: mean(lost), largest, adapter: mean(distances(adapted, plain)) }
}

function withModel<Result>(dir: string, work: (model: Model) => Result): Result {
  const source = openModelFolder(dir)
  const { model, dispose } = readModel(source, cpu, { quantize: 'none' })
  try {
    return work(model)
  } finally {
    dispose()
    source.checkpoint.close()
  }
}

function randomLogits(model: Model): Float32Array {
  const ids = Int32Array.from(randomIntegers(length, model.config.vocabSize, 0))
  const micro = { ids, positions: ids.map((_, i) => i), bounds: Int32Array.of(0, length) }
  const work = (model: Model, arena: Arena) => logitsOf(model, modelForward(model, arena, toDevice(arena, micro)))
  const arena = arenaFor(model, work)
  try {
    return work(model, arena).read() as Float32Array
  } finally {
    arena.dispose()
  }
}

const distances = (a: Float32Array, b: Float32Array): Float32Array => a.map((value, i) => Math.abs(value - b[i]!))
const mean = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0) / values.length
