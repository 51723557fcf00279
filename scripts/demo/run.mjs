// The demo's work: LoRAM from the shipped model to a recovered adapter, and all that it is measured against.
import { statSync } from 'node:fs'
import path from 'node:path'
import { loadModel, plan, trainLoRAM } from 'loram'
import { readLines } from './jsonLines.mjs'

/** The first layers, which read the question, stay whole: the paper leaves the first four of a large model. */
const prune = { method: 'structured', ratio: 0.7, layers: [3, 6] }
const lora = { rank: 16, alpha: 32, dropout: 0 }
const sequenceLength = 64
const microBatchSize = 32

/** How long each part takes. */
export const demoLength = { alignSteps: 40, trainSteps: 120, prompts: 200 }
export const quickLength = { alignSteps: 2, trainSteps: 4, prompts: 5 }

/** @typedef {{ perplexity: number, exactMatch: number, parameters: number, bytes: number }} Row */
/** @typedef {import('loram').RunEvent | { type: 'answer', answered: number, prompts: number }} Progress */

/**
 * Trains an adapter by LoRAM and, for comparison, one on the large model itself, and measures both and the models on the way.
 * @param {{ model: string, data: string, output: string, length: typeof demoLength, onProgress: (part: string, progress: Progress) => void }} options
 */
export async function runDemo({ model, data, output, length, onProgress }) {
  const began = performance.now()
  const file = (name) => path.join(data, `${name}.jsonl`)
  const questions = readLines(file('test')).slice(0, length.prompts)
  const measured = (part, folder, adapter) =>
    measure({ folder, adapter, test: file('test'), questions }, (progress) => onProgress(part, progress))
  const trained = async (part, stages) => {
    const run = trainLoRAM({ ...training(model, file, length), ...stages, output: path.join(output, part) })
    for await (const event of run) onProgress(part, event)
  }

  const [loram, full] = ['loram', 'full'].map((name) => path.join(output, name))
  const [pruned, aligned, prunedAdapter] = ['pruned', 'aligned', 'prunedAdapter'].map((name) =>
    path.join(loram, 'run', name),
  )
  const rows = { base: await measured('base', model) }
  await trained('loram', pruning(file('corpus'), length))
  rows.pruned = await measured('pruned', pruned)
  rows.aligned = await measured('aligned', aligned)
  rows.trainedSmall = await measured('trainedSmall', aligned, prunedAdapter)
  rows.recovered = await measured('recovered', model, loram)
  await trained('full', {})
  rows.fullLora = await measured('fullLora', model, full)
  return { rows, adapter: loram, ceiling: full, seconds: (performance.now() - began) / 1000 }
}

/** What LoRA training takes on the large model and on the pruned one. */
export const demoPlan = (model) => ({
  large: plan({ model, lora, sequenceLength, microBatchSize }),
  small: plan({ model, lora, sequenceLength, microBatchSize, prune: { ratio: prune.ratio, layers: prune.layers } }),
})

const training = (model, file, { trainSteps }) => ({
  model,
  data: { train: file('train'), eval: file('validation'), sequenceLength },
  lora,
  log: { samples: 10 },
  train: {
    epochs: Number.MAX_SAFE_INTEGER,
    maxSteps: trainSteps,
    batchSize: microBatchSize,
    microBatchSize,
    learningRate: 6e-3,
    evalSteps: 30,
    saveSteps: trainSteps,
  },
})

const pruning = (corpus, { alignSteps }) => ({
  prune: { ...prune, calibration: { data: corpus, samples: 64 } },
  align: {
    data: corpus,
    steps: alignSteps,
    batchSize: 16,
    microBatchSize: 16,
    sequenceLength: 128,
    learningRate: 5e-4,
    warmupSteps: 5,
  },
})

/** @returns {Promise<Row>} */
async function measure({ folder, adapter, test, questions }, report) {
  const loaded = await loadModel(folder, adapter === undefined ? {} : { adapter })
  try {
    const { perplexity } = await loaded.evaluate({ data: test, sequenceLength, microBatchSize })
    let answered = 0
    const right = await Promise.all(
      questions.map(async ({ prompt, completion }) => {
        const { text } = await loaded.complete(prompt, { maxNewTokens: 8 })
        report({ type: 'answer', answered: ++answered, prompts: questions.length })
        return text === completion
      }),
    )
    return { perplexity, exactMatch: right.filter(Boolean).length / questions.length, ...sizeOf(folder, adapter) }
  } finally {
    await loaded.close()
  }
}

/** Parameters of a model with its adapter, and the bytes that they take on disk. */
function sizeOf(folder, adapter) {
  const { parameters } = plan({ model: folder, lora }).training
  const bytes = statSync(path.join(folder, 'model.safetensors')).size
  if (adapter === undefined) return { parameters: parameters.trained, bytes }
  return {
    parameters: parameters.trained + parameters.adapter,
    bytes: bytes + statSync(path.join(adapter, 'adapter_model.safetensors')).size,
  }
}
