import { ConfigError } from '../errors.ts'
import type { KeptLayer, PruningPlan } from '../formats/pruningJson.ts'
import { type LlamaConfig, prunedWidths } from '../model/config.ts'
import type { Projection } from '../model/model.ts'

/** How much each structure of a layer matters; what matters least is cut. */
export interface LayerImportance {
  /** [intermediate size] */
  readonly channels: ArrayLike<number>
  /** [key-value heads] */
  readonly kvHeads: ArrayLike<number>
}

/** The dimensions that decide what can be cut, of the original model. */
export type Dimensions = Omit<PruningPlan['source'], 'name' | 'fingerprint'>

/** All but the first four and the last two, half-open, as in the paper. */
export const layersToPruneByDefault = (numHiddenLayers: number): [number, number] => [4, numHiddenLayers - 2]

export const dimensionsOf = (config: LlamaConfig): Dimensions => {
  const { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim } = config
  return { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim }
}

/**
 * The layers to prune, half-open. By default {@link layersToPruneByDefault}.
 * @throws {ConfigError} `E_CONFIG`: the model has no such layers
 */
export function layersToPrune(
  numHiddenLayers: number,
  [start, end]: readonly [number, number] = layersToPruneByDefault(numHiddenLayers),
): [number, number] {
  if (start < end && end <= numHiddenLayers) return [start, end]
  throw new ConfigError('E_CONFIG', 'no such layers to prune', {
    field: 'prune.layers',
    expected: `[first, end) within ${numHiddenLayers} layers`,
    found: `[${start}, ${end})`,
    remedy: 'name the layers to prune; by default the first four and the last two stay whole',
  })
}

/** How many structures of a layer stay. */
export interface KeptCounts {
  readonly channels: number
  readonly kvHeads: number
}

/**
 * How many channels and kv heads stay at `ratio`.
 * @throws {ConfigError} `E_CONFIG`: nothing would be left
 */
export function keptCounts(source: Dimensions, ratio: number): KeptCounts {
  const { intermediateSize: channels, numKeyValueHeads: kvHeads } = prunedWidths(source, ratio, ratio)
  if (ratio >= 0 && channels > 0 && kvHeads > 0) return { channels, kvHeads }
  throw new ConfigError('E_CONFIG', 'the pruning ratio leaves nothing of a layer', {
    field: 'prune.ratio',
    expected: 'a ratio from 0 that leaves a channel and a key-value head',
    found: `${ratio}: ${channels} of ${source.intermediateSize} channels, ${kvHeads} of ${source.numKeyValueHeads} heads`,
    remedy: 'lower the ratio',
  })
}

/**
 * Chooses what each layer of `layers` (half-open) keeps: the most important structures, of equal ones the later.
 * @param importanceOf layer index -> importance of its structures
 */
export function choose(
  source: Dimensions,
  ratio: number,
  layers: readonly [number, number],
  importanceOf: (layer: number) => LayerImportance,
): KeptLayer[] {
  const counts = keptCounts(source, ratio)
  return chooseCounts(layers, importanceOf, () => counts)
}

/** {@link choose} with counts of each layer's own. */
export function chooseCounts(
  [start, end]: readonly [number, number],
  importanceOf: (layer: number) => LayerImportance,
  countsOf: (layer: number) => KeptCounts,
): KeptLayer[] {
  return Array.from({ length: end - start }, (_, i) => {
    const layer = start + i
    const { channels, kvHeads } = importanceOf(layer)
    const counts = countsOf(layer)
    return {
      layer,
      channels: mostImportant(channels, counts.channels),
      kvHeads: mostImportant(kvHeads, counts.kvHeads),
    }
  })
}

/** Ascending indices of the `count` largest scores. The reference cuts from the front of an ascending sort. */
function mostImportant(scores: ArrayLike<number>, count: number): number[] {
  const order = Array.from(scores, (_, i) => i).sort((i, j) => scores[i]! - scores[j]! || i - j)
  return order.slice(order.length - count).sort((i, j) => i - j)
}

/** Width of each projection's pruned side in the original model. */
export function originalWidths(source: Dimensions): Record<Projection, number> {
  const { intermediateSize, numAttentionHeads, numKeyValueHeads, headDim } = source
  const queries = numAttentionHeads * headDim
  const keys = numKeyValueHeads * headDim
  return {
    q: queries,
    k: keys,
    v: keys,
    o: queries,
    gate: intermediateSize,
    up: intermediateSize,
    down: intermediateSize,
  }
}

/**
 * Which side of a projection [out, in] pruning cuts, and the indices it keeps there: the outputs of q, k, v, gate and up,
 * the inputs of o and down. A kv head keeps its own rows of k and v, and those of all its query heads in q and o.
 */
export function keptIndices(
  projection: Projection,
  { channels, kvHeads }: KeptLayer,
  { numAttentionHeads, numKeyValueHeads, headDim }: Dimensions,
): { side: 'out' | 'in'; indices: Int32Array } {
  const rowsOfHeads = (size: number) =>
    Int32Array.from(kvHeads.flatMap((head) => Array.from({ length: size }, (_, i) => head * size + i)))
  const group = numAttentionHeads / numKeyValueHeads
  switch (projection) {
    case 'k':
    case 'v':
      return { side: 'out', indices: rowsOfHeads(headDim) }
    case 'q':
      return { side: 'out', indices: rowsOfHeads(headDim * group) }
    case 'o':
      return { side: 'in', indices: rowsOfHeads(headDim * group) }
    case 'gate':
    case 'up':
      return { side: 'out', indices: Int32Array.from(channels) }
    case 'down':
      return { side: 'in', indices: Int32Array.from(channels) }
  }
}

/** What a plan makes of a model: other widths of layers, and no weights in NF4. */
export function prunedConfig({ nf4: _, ...config }: LlamaConfig, kept: readonly KeptLayer[]): LlamaConfig {
  const group = config.numAttentionHeads / config.numKeyValueHeads
  const layers = config.layers.map((widths, i) => {
    const layer = kept.find((k) => k.layer === i)
    if (!layer) return widths
    const numKeyValueHeads = layer.kvHeads.length
    return { intermediateSize: layer.channels.length, numKeyValueHeads, numAttentionHeads: numKeyValueHeads * group }
  })
  return { ...config, layers }
}

/** The widths that `ratio` leaves of the layers of a model: what stays does not matter to them. */
export function uniformConfig(config: LlamaConfig, ratio: number, layers: readonly [number, number]): LlamaConfig {
  const equal = {
    channels: new Float32Array(config.intermediateSize),
    kvHeads: new Float32Array(config.numKeyValueHeads),
  }
  return prunedConfig(
    config,
    choose(config, ratio, layers, () => equal),
  )
}
