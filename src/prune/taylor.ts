import type { MicroBatch } from '../data/batches.ts'
import { type Model, type Projection, projectionNames } from '../model/model.ts'
import type { Arena } from '../tensor/arena.ts'
import { type Tensor, zeros } from '../tensor/tensor.ts'
import { uniform } from '../train/recompute.ts'
import { accumulate } from '../train/step.ts'
import { type StopSignal, stopIfAborted } from '../worker/protocol.ts'
import { layerImportance, type WeightScore } from './importance.ts'
import type { Dimensions, LayerImportance } from './plan.ts'

/**
 * Taylor importance |w * dL/dw|, or its square, of the layers in `range` (half-open), L the mean next-token loss over all of
 * `calibration` in one forward and backward pass. Gradients of one layer exist at a time.
 */
export function taylorImportance(
  model: Model,
  arena: Arena,
  calibration: MicroBatch,
  source: Dimensions,
  [start, end]: readonly [number, number],
  score: Omit<WeightScore, 'gradOf'>,
  signal: StopSignal,
): Map<number, LayerImportance> {
  const scores = new Map<number, LayerImportance>()
  const targetCount = calibration.targets.reduce((count, target) => count + Number(target >= 0), 0)
  const mark = arena.mark()
  const loss = zeros(arena, [1], 'f32')
  accumulate({ model, arena, recompute: uniform('full', model.layers.length) }, calibration, 1 / targetCount, loss, {
    aroundLayer: (index, backward) => {
      stopIfAborted(signal, 'prune')
      if (index < start || index >= end) return backward()
      const layer = model.layers[index]!
      const grads = new Map<Projection, Tensor>()
      for (const projection of projectionNames) {
        const grad = zeros(arena, layer[projection].weight.shape, 'f32')
        grads.set(projection, grad)
        layer[projection].grad = grad
      }
      backward()
      scores.set(index, layerImportance(layer, source, { ...score, gradOf: (projection) => grads.get(projection) }))
      for (const projection of projectionNames) delete layer[projection].grad
    },
  })
  arena.release(mark)
  return scores
}
