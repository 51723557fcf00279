// LoRAM on the demo's model:  node examples/train.mjs [output, default runs/example]
import { trainLoRAM } from 'loram'

const [output = 'runs/example'] = process.argv.slice(2)

const run = trainLoRAM({
  model: 'demo/model',
  data: { train: 'demo/data/train.jsonl', eval: 'demo/data/validation.jsonl', sequenceLength: 64 },
  prune: { ratio: 0.5, layers: [1, 5], calibration: { data: 'demo/data/corpus.jsonl' } },
  align: { data: 'demo/data/corpus.jsonl', steps: 10, batchSize: 16, sequenceLength: 128, learningRate: 1e-3 },
  lora: { rank: 16, alpha: 32 },
  train: { maxSteps: 20, batchSize: 32, microBatchSize: 32, learningRate: 4e-3, evalSteps: 10 },
  output,
})

for await (const event of run) {
  if (event.type === 'stage') console.log(event.stage, event.status)
  if (event.type === 'step' && event.step % 5 === 0) console.log(`step ${event.step}, loss ${event.loss.toFixed(3)}`)
  if (event.type === 'evaluation') console.log(`held-out perplexity ${event.perplexity.toFixed(3)}`)
}
const { adapter, metrics } = await run
console.log(`adapter in ${adapter} after ${metrics.steps} steps`)
