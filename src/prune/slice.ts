import { type Checkpoint, writeCheckpoint } from '../formats/huggingFace.ts'
import type { PruningPlan } from '../formats/pruningJson.ts'
import { parseModule } from '../model/model.ts'
import { readTensor } from '../model/weights.ts'
import { gatherColumns, gatherRows } from '../native/gather.ts'
import { cpu } from '../tensor/device.ts'
import { type Tensor, tensorFrom } from '../tensor/tensor.ts'
import { type StopSignal, stopIfAborted } from '../worker/protocol.ts'
import { keptIndices } from './plan.ts'

/**
 * The part of a weight [out, in] or a bias [out] that `plan` keeps: bit-equal copies of its rows or columns, or the tensor
 * itself.
 */
export function sliceWeight(name: string, weight: Tensor, plan: PruningPlan): Tensor {
  const kept = keptOf(name, plan)
  if (!kept) return weight
  const indices = tensorFrom(weight.device, kept.indices)
  if (weight.shape.length === 1) return gatherRows(weight.slice(0, [weight.elements, 1]), indices)
  return kept.side === 'out' ? gatherRows(weight, indices) : gatherColumns(weight, indices)
}

function keptOf(name: string, plan: PruningPlan) {
  const module = parseModule(name)
  const layer = module && plan.kept.find((kept) => kept.layer === module.layer)
  const kept = layer && keptIndices(module.projection, layer, plan.source)
  // A bias belongs to the outputs
  return kept?.side === 'in' && name.endsWith('.bias') ? undefined : kept
}

function slicedShape(name: string, shape: readonly number[], plan: PruningPlan): number[] {
  const kept = keptOf(name, plan)
  if (!kept) return [...shape]
  const [out, ...inputs] = shape as [number, ...number[]]
  return kept.side === 'out' ? [kept.indices.length, ...inputs] : [out, kept.indices.length]
}

/**
 * Writes the pruned checkpoint: the original's weights cut by `plan`, its config and tokenizer, and `pruning.json`. Takes
 * the host memory of one weight at a time.
 */
export function writePruned(checkpoint: Checkpoint, plan: PruningPlan, dir: string, signal: StopSignal): void {
  const entries = Array.from(checkpoint.tensors, ([name, { dtype, shape }]) => ({
    name,
    dtype,
    shape: slicedShape(name, shape, plan),
  }))
  writeCheckpoint(dir, {
    configJson: checkpoint.configJson,
    entries,
    data: (name) => {
      stopIfAborted(signal, 'prune')
      const weight = readTensor(checkpoint, name, cpu)
      const sliced = sliceWeight(name, weight, plan)
      const { buffer } = sliced.read()
      if (sliced !== weight) weight.dispose()
      sliced.dispose()
      return new Uint8Array(buffer)
    },
    pruning: plan,
    copyFrom: checkpoint.dir,
  })
}
