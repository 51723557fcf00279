import { generateDefaults, generateTokens } from '../../dist/infer/generate.js'
import { evaluateLoss } from '../../dist/infer/perplexity.js'
import { attachAdapter } from '../../dist/lora/attach.js'
import { recoverAdapter } from '../../dist/lora/recover.js'
import { arenaFor } from '../../dist/memory/measure.js'
import { linears, moduleOf, projectionNames } from '../../dist/model/model.js'
import { converted } from '../../dist/model/weights.js'
import { gemm } from '../../dist/native/gemm.js'
import { dequantizeNf4 } from '../../dist/native/nf4.js'
import { keptIndices, layersToPrune, prunedConfig } from '../../dist/prune/plan.js'
import { cpu, gpu, openDevice } from '../../dist/tensor/device.js'
import { neverAborted } from '../../dist/worker/protocol.js'
import { isolated } from '../lib/isolated.mjs'
import { configOf, fillRandom, keptOf, randomMicroBatch, randomModel } from '../lib/models.mjs'
import { spreadOf } from '../lib/timing.mjs'

export const description = 'An adapter of the pruned model recovered to the large one in NF4: checked, and its speed'

const tokens = { prompt: 16, generated: 64, evaluated: 512 }

export const casesFor = ({ kind }) =>
  kind === 'cuda'
    ? [{ case: 'large-70b-r8', model: 'llama-70b', pruned: 0.85, rank: 8, ...tokens }]
    : [{ case: 'large-tiny-r4', model: 'tiny', pruned: 0.5, rank: 4, ...tokens }]

export async function* run(cases, { device }) {
  for (const options of cases) {
    yield {
      case: options.case,
      ...(await isolated(import.meta.url, 'measureLarge', { ...options, device: device.kind })),
    }
  }
}

/** The large model with random weights, made in NF4 where it lies, and a random adapter, recovered from the pruned shape. */
export function measureLarge({ model: name, pruned, rank, prompt, generated, evaluated, device: deviceName }) {
  const device = openDevice(deviceName)
  const config = { ...configOf({ model: name }), eosTokenIds: [] }
  const pruning = pruningOf(config, pruned)
  const recovered = recoverAdapter(randomAdapter(prunedConfig(config, pruning.kept), rank), pruning)
  const model = randomModel(config, device, { quantize: 'nf4' })
  attachAdapter(model, recovered)

  const { ids } = randomMicroBatch(1, prompt, config.vocabSize)
  const milliseconds = timeTokens(
    generateTokens(model, Array.from(ids), { ...generateDefaults, maxNewTokens: generated }),
  )
  const { loss, perplexity } = evaluate(model, evaluated)
  const leaked = leaks(model, pruning)
  const merged = lossesWithout(model, pruning.layers[1] - 1, evaluated)
  return {
    tokensPerSecond: 1000 / milliseconds.milliseconds,
    ...milliseconds,
    perplexity,
    loss,
    lossMerged: merged.merged,
    lossWithout: merged.without,
    ...(device.kind === 'cuda' && { peakBytes: gpu().peakBytes + gpu().scratchPeakBytes }),
    ...failureOf({ loss, leaked, ...merged }),
  }
}

/**
 * Merging a layer's pairs into its weights must give the loss that using them unmerged gives, but for rounding: far closer
 * than leaving them out does.
 */
function failureOf({ loss, merged, without, leaked }) {
  const failures = [
    ...leaked.map((module) => `${module} changes what was pruned`),
    ...(Number.isFinite(loss) ? [] : [`the loss is ${loss}`]),
    ...(Math.abs(merged - loss) < Math.abs(without - loss) / 4
      ? []
      : [`merging changes the loss from ${loss} to ${merged}`]),
  ]
  return failures.length ? { failure: failures.join('; ') } : {}
}

function pruningOf(config, ratio) {
  const { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim } = config
  const sizes = { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim }
  return {
    method: 'structured',
    ratio,
    layers: layersToPrune(numHiddenLayers),
    source: { name: 'random', fingerprint: 'none', ...sizes },
    kept: keptOf(config, ratio),
  }
}

/** Pairs as training leaves them: neither A nor B zero, and updates of the size of the weights. */
function randomAdapter(config, rank) {
  const { hiddenSize, headDim } = config
  const random = (shape, deviation, stream) => {
    const values = cpu.empty(shape, 'f32')
    fillRandom(values, deviation, stream)
    return { shape, data: values.read() }
  }
  const modules = config.layers.flatMap(({ numAttentionHeads, numKeyValueHeads, intermediateSize }, layer) => {
    const [queries, keys] = [numAttentionHeads * headDim, numKeyValueHeads * headDim]
    const sizes = {
      ...{ q: [queries, hiddenSize], k: [keys, hiddenSize], v: [keys, hiddenSize], o: [hiddenSize, queries] },
      ...{ gate: [intermediateSize, hiddenSize], up: [intermediateSize, hiddenSize] },
      down: [hiddenSize, intermediateSize],
    }
    return projectionNames.map((projection, i) => {
      const [out, inputs] = sizes[projection]
      const stream = 2 * (layer * projectionNames.length + i)
      const a = random([rank, inputs], 1 / Math.sqrt(inputs), stream)
      return [moduleOf(layer, projection), { a, b: random([out, rank], 0.3, stream + 1) }]
    })
  })
  return { rank, alpha: 2 * rank, useRslora: false, dropout: 0, modules: new Map(modules) }
}

/**
 * Modules of the pruned layers whose update B A is not exactly zero where pruning cut: the rows of B for the outputs, the
 * columns of A for the inputs. What it kept must not be zero.
 */
function leaks(model, { kept, source }) {
  const all = linears(model)
  return kept.flatMap((layer) =>
    projectionNames
      .filter((projection) => {
        const { side, indices } = keptIndices(projection, layer, source)
        const { a, b } = all.get(moduleOf(layer.layer, projection)).lora
        const norms = side === 'out' ? rowNorms(b) : columnNorms(a)
        const keeps = new Set(indices)
        return norms.some((norm, i) => norm > 0 !== keeps.has(i))
      })
      .map((projection) => moduleOf(layer.layer, projection)),
  )
}

function rowNorms(matrix) {
  const [rows, columns] = matrix.shape
  const values = matrix.read()
  return Float64Array.from({ length: rows }, (_, row) =>
    sum(columns, (column) => Math.abs(values[row * columns + column])),
  )
}

function columnNorms(matrix) {
  const [rows, columns] = matrix.shape
  const values = matrix.read()
  return Float64Array.from({ length: columns }, (_, column) =>
    sum(rows, (row) => Math.abs(values[row * columns + column])),
  )
}

function sum(length, term) {
  let total = 0
  for (let i = 0; i < length; i++) total += term(i)
  return total
}

/** Milliseconds a token, the first, which takes in the prompt, left out. */
function timeTokens(generated) {
  const times = []
  let last
  for (const _ of generated) {
    const now = performance.now()
    if (last !== undefined) times.push(now - last)
    last = now
  }
  return spreadOf(times)
}

function evaluate(model, length) {
  const micro = randomMicroBatch(1, length, model.config.vocabSize)
  const arena = arenaFor(model, (twin, meta) => evaluateLoss(twin, meta, [micro], neverAborted))
  const evaluation = evaluateLoss(model, arena, [micro], neverAborted)
  arena.dispose()
  return evaluation
}

/** The loss with one layer's pairs left out, and with them merged into its weights instead. */
function lossesWithout(model, index, length) {
  const layer = model.layers[index]
  const pairs = projectionNames.map((projection) => [layer[projection], layer[projection].lora])
  for (const [linear] of pairs) delete linear.lora
  const without = evaluate(model, length).loss
  for (const [linear, lora] of pairs) linear.weight = mergedWeight(linear.weight, lora, model.device)
  return { without, merged: evaluate(model, length).loss }
}

/** `weight + scale * B A`, summed in f32, in the dtype that the device multiplies by. */
function mergedWeight(weight, { a, b, scale }, device) {
  const merged = dequantizeNf4(weight, 'f32')
  gemm(b, a, merged, { alpha: scale, beta: 1 })
  return converted(merged, device.activations)
}
