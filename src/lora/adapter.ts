/** A matrix in row-major order, `shape` is `[rows, columns]`. */
export interface Matrix {
  shape: [number, number]
  data: Float32Array<ArrayBuffer>
}

/** The update `scale * B A` of one linear layer's weight `[out, in]`. */
export interface AdapterModule {
  /** `[rank, in]` */
  a: Matrix
  /** `[out, rank]` */
  b: Matrix
}

/** A LoRA adapter (Hu et al. 2021, arXiv 2106.09685). */
export interface Adapter {
  rank: number
  alpha: number
  /** Divide alpha by the square root of the rank (Kalajdzievski 2023, arXiv 2312.03732), not by the rank. */
  useRslora: boolean
  /** Probability with which training zeroes an element of the adapter's input. */
  dropout: number
  /** Name or folder of the model it belongs to; for messages only. */
  baseModel?: string
  /** `fingerprint` of the model it was trained for, where loram trained it. */
  base?: string
  /** `planDigest` of the plan of that model, where it is a pruned one. */
  pruning?: string
  /** By the module's path in the model, such as `model.layers.3.self_attn.q_proj`; in the order of the layers. */
  modules: Map<string, AdapterModule>
}

/** The factor that `B A` is multiplied by. */
export function scaleOf({ rank, alpha, useRslora }: Pick<Adapter, 'rank' | 'alpha' | 'useRslora'>): number {
  return alpha / (useRslora ? Math.sqrt(rank) : rank)
}
