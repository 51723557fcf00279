import type { MicroBatch } from '../../src/data/batches.ts'
import type { Example } from '../../src/data/encode.ts'
import { fingerprint, openCheckpoint } from '../../src/formats/huggingFace.ts'
import type { KeptLayer, PruningPlan } from '../../src/formats/pruningJson.ts'
import { goldenPath } from '../golden.ts'
import { readGolden } from '../ops/support.ts'

export const loram = readGolden('loram', 'golden.safetensors')

export const loramLayers: [number, number] = [1, 3]

/** What golden/loram keeps of its large model. */
export const loramKept: KeptLayer[] = [1, 2].map((layer) => ({
  layer,
  channels: Array.from(loram(`layer${layer}.kept_mlp`).ints),
  kvHeads: Array.from(loram(`layer${layer}.kept_kv_heads`).ints),
}))

/** The plan that cut golden/loram/pruned out of golden/loram/large. */
export const loramPlan: PruningPlan = {
  method: 'taylor',
  ratio: 0.65,
  layers: loramLayers,
  source: {
    name: 'large',
    fingerprint: fingerprint(openCheckpoint(goldenPath('loram', 'large'))),
    hiddenSize: 64,
    intermediateSize: 176,
    numHiddenLayers: 4,
    numAttentionHeads: 8,
    numKeyValueHeads: 4,
    headDim: 8,
  },
  kept: loramKept,
}

/** The calibration text of golden/loram, 10 windows of 16 tokens, every token but the first of each predicted. */
export const calibration: MicroBatch = calibrationOf(loram('calibration.input_ids'))

function calibrationOf({ ints: ids, shape: [rows, length] }: ReturnType<typeof loram>): MicroBatch {
  return {
    ids,
    targets: ids.map((_, i) => ((i + 1) % length! === 0 ? -100 : ids[i + 1]!)),
    positions: ids.map((_, i) => i % length!),
    bounds: Int32Array.from({ length: rows! + 1 }, (_, i) => i * length!),
  }
}

/** The windows of {@link calibration} one by one. */
export const calibrationText: Example[] = Array.from(calibration.bounds.subarray(1), (end, i) => ({
  ids: calibration.ids.subarray(calibration.bounds[i], end),
  targets: calibration.targets.subarray(calibration.bounds[i], end),
}))
