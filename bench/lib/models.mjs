import { parseConfig } from '../../dist/model/config.js'
import { buildModel } from '../../dist/model/model.js'
import { heldDtype } from '../../dist/model/weights.js'
import { copyInto } from '../../dist/native/cast.js'
import { quantizeNf4 } from '../../dist/native/nf4.js'
import { fillNormal } from '../../dist/native/random.js'
import { choose, layersToPrune, prunedConfig } from '../../dist/prune/plan.js'
import { tensorFrom } from '../../dist/tensor/tensor.js'

/** What their config.json says of the shape. `tiny` is for machines without a GPU, and for tests. */
const shapes = {
  'llama-8b': {
    ...{ hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32 },
    ...{ num_key_value_heads: 8, vocab_size: 128256, rope_theta: 500000, dtype: 'bfloat16' },
  },
  'llama-70b': {
    ...{ hidden_size: 8192, intermediate_size: 28672, num_hidden_layers: 80, num_attention_heads: 64 },
    ...{ num_key_value_heads: 8, vocab_size: 128256, rope_theta: 500000, dtype: 'bfloat16' },
  },
  'smollm2-135m': {
    ...{ hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30, num_attention_heads: 9 },
    ...{ num_key_value_heads: 3, vocab_size: 49152, rope_theta: 100000, tie_word_embeddings: true, dtype: 'float32' },
  },
  tiny: {
    ...{ hidden_size: 128, intermediate_size: 352, num_hidden_layers: 8, num_attention_heads: 4 },
    ...{ num_key_value_heads: 2, vocab_size: 512, rope_theta: 10000, dtype: 'bfloat16' },
  },
}

/** A model's config.json; its norms and frequencies are Llama's. */
export const configJson = (name) => ({ model_type: 'llama', rms_norm_eps: 1e-5, ...shapes[name] })

/** The model's shape, or what LoRAM's pruning by the ratio `pruned` leaves of it. */
export function configOf({ model, pruned }) {
  const config = parseConfig(configJson(model), 'config.json')
  return pruned === undefined ? config : prunedConfig(config, keptOf(config, pruned))
}

/** What structured pruning keeps, had every structure an importance that its index scatters. */
export function keptOf(config, ratio) {
  const scattered = (length) => Uint32Array.from({ length }, (_, i) => Math.imul(i + 1, 2654435761))
  const importance = { channels: scattered(config.intermediateSize), kvHeads: scattered(config.numKeyValueHeads) }
  return choose(config, ratio, layersToPrune(config.numHiddenLayers), () => importance)
}

/** A model with weights of the size that training starts from, made where it lies: nothing is read or copied. */
export function randomModel(config, device, { quantize, quantizeTables = false }) {
  let stream = 0
  const matrix = (shape, toNf4) => {
    const weight = device.empty(shape, toNf4 ? 'f32' : heldDtype(device, config.dtype))
    fillRandom(weight, 0.02, stream++)
    if (!toNf4) return weight
    const packed = quantizeNf4(weight)
    weight.dispose()
    return packed
  }
  return buildModel(config, device, {
    table: (_name, shape) => matrix(shape, quantizeTables),
    linear: (_name, shape) => matrix(shape, quantize === 'nf4'),
    vector: (_name, [width]) => tensorFrom(device, new Float32Array(width).fill(1)),
  })
}

/** Normally distributed values in a matrix of any float dtype; takes 256 MiB beside it. */
export function fillRandom(tensor, deviation, stream) {
  if (tensor.dtype === 'f32') return fillNormal(tensor, 0, deviation, { seed: 7, stream })
  const [rows, columns] = tensor.shape
  const step = Math.min(rows, Math.max(1, Math.floor(2 ** 26 / columns)))
  const values = tensor.device.empty([step, columns], 'f32')
  for (let from = 0; from < rows; from += step) {
    const to = Math.min(rows, from + step)
    fillNormal(values, 0, deviation, { seed: 7 + from, stream })
    copyInto(values.rows(0, to - from), tensor.rows(from, to))
  }
  values.dispose()
}

/** A micro-batch of `rows` examples of `length` random tokens, each of which is a target; another one for every `seed`. */
export function randomMicroBatch(rows, length, vocabSize, seed = 1) {
  let state = seed
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state % vocabSize
  }
  return {
    ids: Int32Array.from({ length: rows * length }, next),
    targets: Int32Array.from({ length: rows * length }, next),
    positions: Int32Array.from({ length: rows * length }, (_, i) => i % length),
    bounds: Int32Array.from({ length: rows + 1 }, (_, i) => i * length),
  }
}
