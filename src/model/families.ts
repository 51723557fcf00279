/** What loram knows about a family of models, besides config.json. */
interface Family {
  /** Keys of config.json that must be absent or have this value: loram computes nothing else. */
  fixed: Readonly<Record<string, unknown>>
  /** Values that transformers assumes where config.json is silent. */
  defaults: { ropeTheta: number; rmsNormEps: number; maxPositionEmbeddings: number }
}

/** The families that loram runs, by config.json's `model_type`. A new one is a row here; `block.ts` only if its mathematics differ. */
export const families = {
  llama: {
    fixed: { hidden_act: 'silu', attention_bias: false, mlp_bias: false },
    defaults: { ropeTheta: 10_000, rmsNormEps: 1e-6, maxPositionEmbeddings: 2048 },
  },
} as const satisfies Record<string, Family>

export type ModelType = keyof typeof families
