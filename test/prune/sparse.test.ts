import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { evaluationBatches } from '../../src/data/batches.ts'
import { type Checkpoint, fingerprint, openCheckpoint } from '../../src/formats/huggingFace.ts'
import type { PruningPlan } from '../../src/formats/pruningJson.ts'
import { blockForward } from '../../src/model/block.ts'
import { disposeLayer, embed, type Model, moduleOf, type Projection, projectionNames } from '../../src/model/model.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { readTensor } from '../../src/model/weights.ts'
import { cast } from '../../src/native/cast.ts'
import { dequantizeNf4, quantizeNf4 } from '../../src/native/nf4.ts'
import { inverseFactor, sparseGpt } from '../../src/native/sparse.ts'
import { inputsOf } from '../../src/prune/calibration.ts'
import { dimensionsOf } from '../../src/prune/plan.ts'
import { type Cut, cutByMagnitude, cutByWanda, type SparseSettings, writeSparse } from '../../src/prune/sparse.ts'
import { cpu } from '../../src/tensor/device.ts'
import { type Device, type Tensor, tensorFrom } from '../../src/tensor/tensor.ts'
import { alignedNames, openTrainable, writeAligned } from '../../src/train/align.ts'
import { toDevice, trainStep } from '../../src/train/step.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { loadDirectory, testArena } from '../model/support.ts'
import { onEveryDevice, random, toArray } from '../ops/support.ts'
import { batchOf, trainerOf } from '../train/support.ts'
import { calibration, calibrationText } from './loram.ts'

const scratch = scratchFolder()
const cut48: Cut = { n: 4, m: 8 }
const text = calibrationText.slice(0, 4)

let folders = 0
/** Prunes the model in `folder` to a new one, and gives its plan and its folder. */
function pruned(
  folder: string,
  settings: Omit<SparseSettings, 'signal'>,
  { layers, device = cpu }: { layers?: [number, number]; device?: Device } = {},
) {
  const source = openModelFolder(folder)
  const { config, checkpoint } = source
  const { cut } = settings
  const plan: PruningPlan = {
    method: settings.criterion,
    ratio: 'm' in cut ? cut.n / cut.m : cut.ratio,
    layers: layers ?? [0, config.numHiddenLayers],
    pattern: 'm' in cut ? '4:8' : 'unstructured',
    source: { name: folder, fingerprint: fingerprint(checkpoint), ...dimensionsOf(config) },
    kept: [],
  }
  const dir = path.join(scratch, `pruned ${folders++}`)
  writeSparse(source, plan, { ...settings, signal: neverAborted }, text, device, dir)
  return { dir, plan, source: checkpoint, result: openCheckpoint(dir) }
}

const large = goldenPath('loram', 'large')

function weightsOf(checkpoint: Checkpoint, layer: number, projection: Projection): Tensor {
  return cast(readTensor(checkpoint, `${moduleOf(layer, projection)}.weight`, cpu), 'f32')
}

/** Layer by layer and projection by projection, what `inputs` gives for the model as it is pruned before that layer. */
function eachInput(dir: string, visit: (layer: number, projection: Projection, x: Float64Array[]) => void): void {
  const dense = loadDirectory(large, cpu)
  const sparse = loadDirectory(dir, cpu)
  for (let layer = 0; layer < dense.layers.length; layer++) {
    const mixed: Model = { ...dense, layers: [...sparse.layers.slice(0, layer), dense.layers[layer]!] }
    const states = Array.from(evaluationBatches(text, { microBatchSize: 1, sequenceLength: 16 }), (micro) => {
      const tokens = toDevice(testArena(cpu), micro)
      const x = embed(mixed, tokens.ids)
      const outputs = mixed.layers.map((one, i) => {
        const y = i < layer ? x : undefined
        return blockForward(one, mixed.constants, cast(x, x.dtype), y, tokens)
      })
      const { h1, heads, h2, a } = outputs.at(-1)!
      return { attention: toArray(h1().y), heads: toArray(heads.y), mlp: toArray(h2().y), channels: toArray(a()) }
    })
    for (const [input, projections] of Object.entries(inputsOf)) {
      for (const projection of projections) {
        visit(
          layer,
          projection,
          states.map((state) => state[input as keyof typeof inputsOf]),
        )
      }
    }
  }
  for (const model of [dense, sparse]) for (const layer of model.layers) disposeLayer(layer)
}

/** sum over tokens of x_i x_j, by sequence. */
function products(x: Float64Array[], size: number): Float64Array {
  const sums = new Float64Array(size * size)
  for (const tokens of x)
    for (let at = 0; at < tokens.length; at += size)
      for (let i = 0; i < size; i++)
        for (let j = 0; j < size; j++) sums[i * size + j]! += (tokens[at + i]! * tokens[at + j]!) / x.length
  return sums
}

describe('weights of a whole model, measured on what the pruned layers before give', () => {
  test('by magnitude', () => {
    const { source, result } = pruned(large, { criterion: 'magnitude', cut: { ratio: 0.6 } })
    for (const projection of projectionNames) {
      const want = weightsOf(source, 2, projection)
      cutByMagnitude(want, { ratio: 0.6 })
      expect(toArray(weightsOf(result, 2, projection))).toEqual(toArray(want))
    }
  })

  test.each([cut48, { ratio: 0.55 }])('by Wanda, %o', (cut) => {
    const { dir, source, result } = pruned(large, { criterion: 'wanda', cut })
    eachInput(dir, (layer, projection, x) => {
      const want = weightsOf(source, layer, projection)
      const size = want.shape[1]!
      const squares = products(x, size)
      cutByWanda(
        want,
        cut,
        Float32Array.from({ length: size }, (_, j) => Math.sqrt(squares[j * (size + 1)]!)),
      )
      expect(toArray(weightsOf(result, layer, projection)), moduleOf(layer, projection)).toEqual(toArray(want))
    })
  })

  test.each([cut48, { ratio: 0.55 }])('by SparseGPT, %o', (cut) => {
    const { dir, source, result } = pruned(large, { criterion: 'sparsegpt', cut })
    eachInput(dir, (layer, projection, x) => {
      const want = weightsOf(source, layer, projection)
      const size = want.shape[1]!
      const h = tensorFrom(
        cpu,
        Float32Array.from(products(x, size), (sum) => 2 * sum),
        [size, size],
      )
      sparseGpt(want, h, inverseFactor(h, 0.01)!, cut)
      const [got, expected] = [toArray(weightsOf(result, layer, projection)), toArray(want)]
      // 40 tokens in hundreds of dimensions: the sums' own rounding moves a choice between near equals here and there.
      const other = got.filter((value, i) => (value === 0) !== (expected[i] === 0)).length
      expect(other / got.length, moduleOf(layer, projection)).toBeLessThan(0.01)
    })
  })
})

onEveryDevice('the pruned checkpoint', (device) => {
  const sharded = goldenPath('models', 'llama2')

  test('has exactly 4 zeros in 8, in the layers to prune and nowhere else, and computes', () => {
    const { dir, plan, source, result } = pruned(
      large,
      { criterion: 'sparsegpt', cut: cut48 },
      { layers: [1, 3], device },
    )
    expect(result.pruning).toEqual(plan)
    for (const [name, { shape, dtype }] of source.tensors) {
      expect(result.tensors.get(name)).toMatchObject({ shape, dtype })
      const same = Buffer.compare(result.read(name), source.read(name)) === 0
      expect(same, name).toBe(!/layers\.[12]\..*proj/.test(name))
    }
    for (const projection of projectionNames) {
      const values = toArray(weightsOf(result, 1, projection))
      for (let at = 0; at < values.length; at += 8) {
        expect(values.subarray(at, at + 8).filter((value) => value === 0).length).toBe(4)
      }
    }
    expect(loadDirectory(dir, device, 'nf4').layers).toHaveLength(4)
  })

  test('of a sharded model, row by row', () => {
    const { result } = pruned(sharded, { criterion: 'wanda', cut: { ratio: 0.3 } }, { device })
    const down = weightsOf(result, 1, 'down')
    const [rows, columns] = down.shape as [number, number]
    const values = toArray(down)
    for (let i = 0; i < rows; i++) {
      const zeros = values.subarray(i * columns, (i + 1) * columns).filter((value) => value === 0)
      expect(zeros.length).toBe(Math.floor(0.3 * columns))
    }
  })

  test.each(['mistral', 'qwen2', 'qwen3'])('of %s has its biases and norms of heads', (name) => {
    const { source, result } = pruned(goldenPath('models', name), { criterion: 'wanda', cut: cut48 }, { device })
    for (const tensor of source.tensors.keys()) {
      const same = Buffer.compare(result.read(tensor), source.read(tensor)) === 0
      expect(same, tensor).toBe(!tensor.endsWith('_proj.weight'))
    }
  })

  test('keeps its zeros in NF4, and through alignment', () => {
    const { dir } = pruned(large, { criterion: 'sparsegpt', cut: { ratio: 0.5 } }, { device })
    const folder = openModelFolder(dir)
    const trainable = openTrainable(folder, alignedNames(folder), device)
    const trainer = trainerOf(trainable.model, trainable.parameters, { sparse: trainable.sparse, weightDecay: 0.1 })
    const losses = [0, 1, 2, 3].map(() => trainStep(trainer, batchOf(calibration), 1e-3).loss)
    expect(losses.at(-1)).toBeLessThan(losses[0]!)
    const aligned = path.join(scratch, `aligned ${folders++}`)
    writeAligned(folder.checkpoint, trainable.parameters, aligned)
    for (const projection of projectionNames) {
      const before = toArray(weightsOf(folder.checkpoint, 2, projection))
      const after = weightsOf(openCheckpoint(aligned), 2, projection)
      const isZero = (values: ArrayLike<number>) => Array.from(values, (value) => value === 0)
      expect(isZero(toArray(after))).toEqual(isZero(before))
      expect(toArray(after)).not.toEqual(before)
    }
  })
})

onEveryDevice('NF4', (device) => {
  test('holds zeros exactly, also in blocks of nothing else', () => {
    const w = random(cpu, [64, 96])
    cutByMagnitude(w, cut48)
    for (const at of [0, 640]) w.slice(at, [1, 128]).zero()
    const sparse = tensorFrom(device, w.read() as Float32Array, w.shape)
    const back = toArray(dequantizeNf4(quantizeNf4(sparse), 'f32'))
    const zeros = toArray(sparse).map((value, i) => (value === 0 ? back[i]! : 0))
    expect(zeros.every((value) => value === 0)).toBe(true)
    expect(back.filter((value) => value !== 0).length).toBeGreaterThan(0.4 * back.length)
  })
})
