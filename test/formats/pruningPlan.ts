import type { PruningPlan } from '../../src/formats/pruningJson.ts'

/** A plan for golden's `models/llama3`. */
export const plan: PruningPlan = {
  method: 'random',
  ratio: 0.65,
  layers: [0, 2],
  seed: 42,
  source: {
    name: 'llama3',
    fingerprint: 'sha256:00',
    hiddenSize: 64,
    intermediateSize: 176,
    numHiddenLayers: 2,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    headDim: 16,
  },
  kept: [
    { layer: 0, channels: [0, 3, 175], kvHeads: [1] },
    { layer: 1, channels: [2, 4, 6], kvHeads: [0] },
  ],
}
