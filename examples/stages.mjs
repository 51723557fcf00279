// The stages of LoRAM one by one, as where one party prunes and aligns and others only train:
//   node examples/stages.mjs [folder, default runs/stages]
import path from 'node:path'
import { align, evaluate, merge, prune, recover, trainLoRAM } from 'loram'

const [folder = 'runs/stages'] = process.argv.slice(2)
const [pruned, aligned, small, recovered, merged] = ['pruned', 'aligned', 'small', 'recovered', 'merged'].map((name) =>
  path.join(folder, name),
)
const model = 'demo/model'
const corpus = 'demo/data/corpus.jsonl'

// The publisher, once: the large model is needed here
await prune({ model, output: pruned, ratio: 0.5, layers: [1, 5], calibration: { data: corpus } })
await align({ model: pruned, output: aligned, data: corpus, steps: 5, batchSize: 8, sequenceLength: 128 })

// A user: only the small model is needed. Without `prune`, trainLoRAM trains on the model as it is
await trainLoRAM({
  model: aligned,
  data: { train: 'demo/data/train.jsonl', sequenceLength: 64 },
  train: { maxSteps: 5, batchSize: 16, learningRate: 4e-3 },
  output: small,
})

// Where the large model runs
await recover({ adapter: path.join(small, 'run/prunedAdapter'), pruning: aligned, output: recovered })
await merge({ model, adapter: recovered, output: merged })
const data = { data: 'demo/data/test.jsonl', sequenceLength: 64 }
const unmerged = await evaluate({ model, adapter: recovered, ...data })
const whole = await evaluate({ model: merged, ...data })
console.log(`perplexity ${unmerged.perplexity.toFixed(3)} with the adapter, ${whole.perplexity.toFixed(3)} merged`)
