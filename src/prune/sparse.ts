import type { Example } from '../data/encode.ts'
import { ModelError } from '../errors.ts'
import { type Checkpoint, writeCheckpoint } from '../formats/huggingFace.ts'
import type { PruningPlan } from '../formats/pruningJson.ts'
import { moduleOf, type Projection, parseModule, projectionNames } from '../model/model.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import { readTensor } from '../model/weights.ts'
import { cast } from '../native/cast.ts'
import { cutLeast, inverseFactor, sparseGpt } from '../native/sparse.ts'
import { cpu } from '../tensor/device.ts'
import { type Device, type Tensor, tensorFrom } from '../tensor/tensor.ts'
import { type StopSignal, stopIfAborted } from '../worker/protocol.ts'
import { type CalibratedLayer, Calibration, inputsOf } from './calibration.ts'
import type { Criterion } from './methods.ts'

/** What goes: n of every m neighbours in a row, or a part of all, wherever they are. */
export type Cut = { n: number; m: number } | { ratio: number }

export interface SparseSettings {
  criterion: Criterion
  cut: Cut
  signal: StopSignal
}

/**
 * Sets single weights of the layers of `plan` to zero and writes the model to the folder `dir`, shapes as they are. Layer
 * by layer, each measured on the outputs of the pruned ones before it; takes the memory of one layer's weights, of its
 * statistics, and of the activations of `text`.
 * @param text what `sparsegpt` and `wanda` are measured on
 * @throws {AbortError} the signal, between two layers; nothing is written
 */
export function writeSparse(
  source: OpenCheckpoint,
  plan: PruningPlan,
  settings: SparseSettings,
  text: readonly Example[],
  device: Device,
  dir: string,
): void {
  const { checkpoint } = source
  const calibration = settings.criterion === 'magnitude' ? undefined : new Calibration(source, text, device)
  const layers = prunedLayers(source, plan.layers, settings, calibration)
  const ready = new Map<string, Uint8Array>()
  const isCut = (name: string) => {
    const layer = name.endsWith('.weight') ? (parseModule(name)?.layer ?? -1) : -1
    return layer >= plan.layers[0] && layer < plan.layers[1]
  }
  try {
    writeCheckpoint(dir, {
      configJson: checkpoint.configJson,
      entries: inLayerOrder(checkpoint),
      data: (name) => {
        if (!isCut(name)) return valuesOf(checkpoint, name)
        while (!ready.has(name)) for (const [cut, bytes] of layers.next().value ?? []) ready.set(cut, bytes)
        const bytes = ready.get(name)!
        ready.delete(name)
        return bytes
      },
      pruning: plan,
      copyFrom: checkpoint.dir,
    })
  } finally {
    calibration?.dispose()
  }
}

/** Also of a weight that is stored in NF4: its plain values. */
function valuesOf(checkpoint: Checkpoint, name: string): Uint8Array {
  const tensor = readTensor(checkpoint, name, cpu)
  const { buffer } = tensor.read()
  tensor.dispose()
  return new Uint8Array(buffer)
}

/** A file's own order may be that of names, in which layer 10 comes before layer 2. */
function inLayerOrder({ tensors }: Checkpoint) {
  const layerOf = (name: string) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? -1)
  const entries = Array.from(tensors, ([name, { dtype, shape }]) => ({ name, dtype, shape }))
  return entries.sort((a, b) => layerOf(a.name) - layerOf(b.name))
}

/** The pruned weights of each layer in turn, in the dtype they are stored in. */
function* prunedLayers(
  { checkpoint }: OpenCheckpoint,
  [start, end]: readonly [number, number],
  { criterion, cut, signal }: SparseSettings,
  calibration: Calibration | undefined,
): Generator<Map<string, Uint8Array>> {
  for (let i = calibration ? 0 : start; i < end; i++) {
    stopIfAborted(signal, 'prune')
    const layer = calibration?.open(i)
    const weights = new Map<string, Uint8Array>()
    const prune = (projection: Projection, work: (w: Tensor) => void) => {
      const name = `${moduleOf(i, projection)}.weight`
      const stored = readTensor(checkpoint, name, cpu)
      const w = cast(stored, 'f32')
      work(w)
      weights.set(name, new Uint8Array(cast(w, stored.dtype).read().buffer))
      layer?.replace(projection, w)
      for (const tensor of [stored, w]) tensor.dispose()
    }
    if (i >= start) {
      if (!layer) for (const projection of projectionNames) prune(projection, (w) => cutByMagnitude(w, cut))
      else if (criterion === 'wanda') pruneByWanda(layer, cut, prune)
      else pruneBySparseGpt(layer, cut, prune, `${checkpoint.dir}, layer ${i}`)
    }
    if (i + 1 < end) layer?.advance()
    layer?.dispose()
    if (i >= start) yield weights
  }
}

type Prune = (projection: Projection, work: (w: Tensor) => void) => void

function pruneByWanda(layer: CalibratedLayer, cut: Cut, prune: Prune): void {
  for (const [input, norms] of layer.inputNorms()) {
    for (const projection of inputsOf[input]) prune(projection, (w) => cutByWanda(w, cut, norms))
  }
}

function pruneBySparseGpt(layer: CalibratedLayer, cut: Cut, prune: Prune, where: string): void {
  for (const [input, hessian] of layer.hessians()) {
    const factor = factorOf(hessian, where)
    for (const projection of inputsOf[input]) prune(projection, (w) => sparseGpt(w, hessian, factor, cut))
    for (const tensor of [factor, hessian]) tensor.dispose()
  }
}

/** Over the whole matrix, as in the reference, one more than the ratio says; or in each group. */
export function cutByMagnitude(w: Tensor, cut: Cut): void {
  const all = w.elements
  if ('m' in cut) cutLeast(w, cut.n, cut.m)
  else cutLeast(w.slice(0, [1, all]), Math.min(all, Math.floor(all * cut.ratio) + 1), all)
}

/** Wanda (Sun et al. 2023, arXiv 2306.11695): in each row, or in each group, the least |w| * norm of the input. */
export function cutByWanda(w: Tensor, cut: Cut, inputNorms: Float32Array): void {
  const columns = w.shape[1]!
  const { n, m } = 'm' in cut ? cut : { n: Math.floor(columns * cut.ratio), m: columns }
  cutLeast(w, n, m, tensorFrom(cpu, inputNorms))
}

/** More damping is tried where rounding has left `hessian` indefinite. */
function factorOf(hessian: Tensor, where: string): Tensor {
  for (const damping of [0.01, 0.1, 1]) {
    const factor = inverseFactor(hessian, damping)
    if (factor) return factor
  }
  throw new ModelError('E_NONFINITE', 'activations on the calibration text are NaN or infinite', {
    file: where,
    expected: 'finite values',
    remedy: 'check the model with loram evaluate, or use the criterion magnitude',
  })
}
