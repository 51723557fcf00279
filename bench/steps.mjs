#!/usr/bin/env node
// Speed and memory of QLoRA steps on the GPU, at the shapes of large models with random weights, made on the GPU itself:
//   node bench/steps.mjs [CASE...]
// Prints a line a case and appends it to bench/results/steps.jsonl. Needs `npm run build` and `npm run build:cuda`.
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { addAdapter, loraDefaults } from '../dist/lora/attach.js'
import { memoryBudget, planWithin } from '../dist/memory/budget.js'
import { parseConfig } from '../dist/model/config.js'
import { buildModel, disposeModel } from '../dist/model/model.js'
import { converted } from '../dist/model/weights.js'
import { addon } from '../dist/native/load.js'
import { quantizeNf4 } from '../dist/native/nf4.js'
import { fillNormal, fillUniform } from '../dist/native/random.js'
import { choose, layersToPrune, prunedConfig } from '../dist/prune/plan.js'
import { Arena } from '../dist/tensor/arena.js'
import { gpu, openDevice } from '../dist/tensor/device.js'
import { AdamW, adamWDefaults } from '../dist/train/adamW.js'
import { hostInputs } from '../dist/train/layerInputs.js'
import { describeRecompute } from '../dist/train/recompute.js'
import { trainStep } from '../dist/train/step.js'

const llama8b = {
  ...{ hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32 },
  ...{ num_key_value_heads: 8, vocab_size: 128256, rope_theta: 500000 },
}
const llama70b = {
  ...{ hidden_size: 8192, intermediate_size: 28672, num_hidden_layers: 80, num_attention_heads: 64 },
  ...{ num_key_value_heads: 8, vocab_size: 128256, rope_theta: 500000 },
}
const cases = {
  'qlora-8b-2x2048-r16': { model: llama8b, microBatchSize: 2, sequenceLength: 2048, rank: 16 },
  'qlora-8b-4x512-r16': { model: llama8b, microBatchSize: 4, sequenceLength: 512, rank: 16 },
  'qloram-70b-4x512-r8': { model: llama70b, pruned: 0.85, microBatchSize: 4, sequenceLength: 512, rank: 8 },
}

const device = openDevice('cuda')
// A machine without git is told what it runs.
const commit =
  process.env.LORAM_COMMIT ?? execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim()
const asked = process.argv.slice(2)
for (const [name, options] of Object.entries(cases)) {
  if (asked.length === 0 || asked.includes(name)) record({ case: name, ...measure(options) })
}

function measure({ model: json, pruned, microBatchSize, sequenceLength, rank }) {
  const original = parseConfig({ model_type: 'llama', dtype: 'bfloat16', ...json }, 'config.json')
  const config = pruned ? prunedTo(original, pruned) : original
  const lora = { ...loraDefaults, rank, alpha: 2 * rank, dropout: 0.05 }
  const shape = { quantize: 'nf4', lora, microBatchSize, sequenceLength }
  const plan = planWithin(config, shape, { recompute: 'auto' }, memoryBudget(undefined, true), device)

  const model = buildModel(config, device, randomWeights())
  const parameters = addAdapter(model, lora, 0)
  const optimizer = new AdamW(parameters, adamWDefaults)
  const arena = new Arena(device, plan.bytes.activations)
  const host = hostInputs(device, plan.recompute, microBatchSize * sequenceLength, config.hiddenSize)
  const dropout = { rate: lora.dropout, seed: 1 }
  const trainer = { model, parameters, optimizer, arena, host, maxGradNorm: 1, recompute: plan.recompute, dropout }
  const micro = randomBatch(microBatchSize, sequenceLength, config.vocabSize)
  const batch = { microBatches: [micro], targetCount: micro.ids.length, epoch: 0, examples: [] }
  const losses = []
  const milliseconds = median(5, () => losses.push(trainStep(trainer, batch, 1e-4).loss))
  const { name, allocatedBytes, scratchPeakBytes } = gpu()
  disposeModel(model)
  for (const owner of [parameters, optimizer, arena, host]) owner?.dispose()
  return {
    gpu: name,
    tokensPerSecond: Math.round((1000 * micro.ids.length) / milliseconds),
    milliseconds: Math.round(10 * milliseconds) / 10,
    peakBytes: allocatedBytes + scratchPeakBytes,
    plannedBytes: plan.bytes.total,
    scratchBytes: scratchPeakBytes,
    recompute: describeRecompute(plan.recompute),
    hostBytes: plan.bytes.host,
    firstLoss: losses[0],
    lastLoss: losses.at(-1),
  }
}

/** What `loram prune` keeps at this ratio, had every structure the same importance. */
function prunedTo(config, ratio) {
  const { intermediateSize, numKeyValueHeads, numHiddenLayers } = config
  const equal = { channels: new Float32Array(intermediateSize), kvHeads: new Float32Array(numKeyValueHeads) }
  return prunedConfig(
    config,
    choose(config, ratio, layersToPrune(numHiddenLayers), () => equal),
  )
}

/** Weights of the size that training starts from, one matrix at a time. */
function randomWeights() {
  let stream = 0
  const normal = (shape) => {
    const tensor = device.empty(shape, 'f32')
    fillNormal(tensor, 0, 0.02, { seed: 7, stream: stream++ })
    return tensor
  }
  return {
    table: (_name, shape) => converted(normal(shape), device.activations),
    linear: (_name, shape) => {
      const weight = normal(shape)
      const packed = quantizeNf4(weight)
      weight.dispose()
      return packed
    },
    vector: (_name, shape) => {
      const ones = device.empty(shape, 'f32')
      fillUniform(ones, 1, 1 + 2 ** -23, { seed: 7, stream: stream++ })
      return ones
    },
  }
}

function randomBatch(rows, length, vocabSize) {
  let state = 1
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

/** Median milliseconds of `repeats` runs after two that are not counted. */
function median(repeats, work) {
  const times = Array.from({ length: repeats + 2 }, () => {
    const began = performance.now()
    work()
    addon().synchronize()
    return performance.now() - began
  })
  return times.slice(2).sort((a, b) => a - b)[Math.floor(repeats / 2)]
}

function record(row) {
  const line = JSON.stringify({ ...row, commit, date: new Date().toISOString() })
  console.log(line)
  const folder = fileURLToPath(new URL('results/', import.meta.url))
  mkdirSync(folder, { recursive: true })
  appendFileSync(`${folder}steps.jsonl`, `${line}\n`)
}
