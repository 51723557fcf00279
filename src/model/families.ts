export type ModelType = 'llama' | 'mistral' | 'qwen2' | 'qwen3'

/** What loram knows about a family of models, besides config.json. */
export interface Family {
  /** Keys of config.json that must be absent or have this value: loram computes nothing else. */
  fixed: Readonly<Record<string, unknown>>
  /** Values that transformers assumes where config.json is silent. `numKeyValueHeads` and `headDim` else follow from others. */
  defaults: {
    ropeTheta: number
    rmsNormEps: number
    maxPositionEmbeddings: number
    numKeyValueHeads?: number
    headDim?: number
  }
  /** q, k and v have biases. */
  qkvBias: boolean
  /** Every query and key head has an RMSNorm before it is rotated. */
  headNorms: boolean
  /** Which layers see `sliding_window` tokens only: none, all, or those that `layer_types` or `max_window_layers` says. */
  slidingWindow: 'none' | 'all' | 'byLayer'
}

/** The families that loram runs, by config.json's `model_type`. A new one is a row here; `block.ts` only if its mathematics differ. */
export const families: Readonly<Record<ModelType, Family>> = {
  llama: {
    fixed: { hidden_act: 'silu', attention_bias: false, mlp_bias: false },
    defaults: { ropeTheta: 10_000, rmsNormEps: 1e-6, maxPositionEmbeddings: 2048 },
    qkvBias: false,
    headNorms: false,
    slidingWindow: 'none',
  },
  mistral: {
    // transformers warns of layer_types here, and ignores them
    fixed: { hidden_act: 'silu', layer_types: null },
    defaults: { ropeTheta: 10_000, rmsNormEps: 1e-6, maxPositionEmbeddings: 131_072, numKeyValueHeads: 8 },
    qkvBias: false,
    headNorms: false,
    slidingWindow: 'all',
  },
  qwen2: {
    fixed: { hidden_act: 'silu' },
    defaults: { ropeTheta: 10_000, rmsNormEps: 1e-6, maxPositionEmbeddings: 32_768, numKeyValueHeads: 32 },
    qkvBias: true,
    headNorms: false,
    slidingWindow: 'byLayer',
  },
  qwen3: {
    fixed: { hidden_act: 'silu', attention_bias: false },
    defaults: {
      ropeTheta: 10_000,
      rmsNormEps: 1e-6,
      maxPositionEmbeddings: 32_768,
      numKeyValueHeads: 32,
      headDim: 128,
    },
    qkvBias: false,
    headNorms: true,
    slidingWindow: 'byLayer',
  },
}
