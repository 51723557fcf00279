import { evaluationBatches, type MicroBatch } from '../data/batches.ts'
import type { Example } from '../data/encode.ts'
import { arenaBytes, metaModel } from '../memory/measure.ts'
import type { Model } from '../model/model.ts'
import { type OpenCheckpoint, streamModel } from '../model/open.ts'
import { Arena } from '../tensor/arena.ts'
import type { Device } from '../tensor/tensor.ts'
import type { StopSignal } from '../worker/protocol.ts'
import { type Grouping, layerImportance } from './importance.ts'
import type { Criterion } from './methods.ts'
import type { LayerImportance } from './plan.ts'
import { taylorImportance } from './taylor.ts'

export interface StructuredSettings {
  criterion: Criterion
  grouping: Grouping
  layers: readonly [number, number]
  signal: StopSignal
}

/**
 * How much each structure of the layers to prune matters. Holds one layer at a time; Taylor importance reads each twice, and
 * holds the hidden states before every layer.
 * @param text what Taylor importance is measured on
 */
export function structuredImportance(
  source: OpenCheckpoint,
  device: Device,
  { criterion, grouping, layers, signal }: StructuredSettings,
  text: readonly Example[],
): Map<number, LayerImportance> {
  const { model, dispose } = streamModel(source, device, { quantize: 'none', dequantize: true })
  const { nf4: _, ...config } = source.config
  try {
    if (criterion === 'magnitude') {
      return new Map(range(layers).map((i) => [i, layerImportance(model.layers[i]!, config, { grouping })]))
    }
    const squared = criterion === 'taylor-second'
    // Second order needs the gradient of each example by itself.
    return Array.from(microBatches(text, squared ? 1 : text.length), (micro) => {
      const measure = (on: Model, arena: Arena) =>
        taylorImportance(on, arena, micro, config, layers, { grouping, squared }, signal)
      const twin = metaModel(config, { quantize: 'none' }, device)
      const bytes = arenaBytes(device, (arena) => measure(twin, arena))
      const arena = new Arena(device, bytes)
      try {
        return measure(model, arena)
      } finally {
        arena.dispose()
      }
    }).reduce(added)
  } finally {
    dispose()
  }
}

const microBatches = (text: readonly Example[], microBatchSize: number): Iterable<MicroBatch> =>
  evaluationBatches(text, { microBatchSize, sequenceLength: Math.max(...text.map(({ ids }) => ids.length)) })

function added(a: Map<number, LayerImportance>, b: Map<number, LayerImportance>): Map<number, LayerImportance> {
  const sum = (x: ArrayLike<number>, y: ArrayLike<number>) => Float64Array.from(x, (value, i) => value + y[i]!)
  return new Map(
    Array.from(a, ([layer, { channels, kvHeads }]) => {
      const other = b.get(layer)!
      return [layer, { channels: sum(channels, other.channels), kvHeads: sum(kvHeads, other.kvHeads) }]
    }),
  )
}

const range = ([start, end]: readonly [number, number]): number[] =>
  Array.from({ length: end - start }, (_, i) => start + i)
