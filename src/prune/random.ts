import { uniform } from '../data/random.ts'
import type { Dimensions, LayerImportance } from './plan.ts'

/** LoRAM-Rand: every structure is as likely to stay as any other. The same seed gives the same choice. */
export function randomImportance(source: Dimensions, layer: number, seed: number): LayerImportance {
  const { intermediateSize, numKeyValueHeads } = source
  const scores = uniform(intermediateSize + numKeyValueHeads, seed, layer)
  return { channels: scores.subarray(0, intermediateSize), kvHeads: scores.subarray(intermediateSize) }
}
