// A run that is stopped goes on where it was:  node examples/resume.mjs [output, default runs/resumed]
import { AbortError, trainLoRAM } from 'loram'

const [output = 'runs/resumed'] = process.argv.slice(2)
const options = {
  model: 'demo/model',
  data: { train: 'demo/data/train.jsonl', sequenceLength: 64 },
  train: { maxSteps: 10, batchSize: 16, learningRate: 4e-3 },
  output,
}

const controller = new AbortController()
const run = trainLoRAM({ ...options, signal: controller.signal })
try {
  for await (const event of run) {
    if (event.type === 'step' && event.step === 4) controller.abort() // ends with the step under way
    if (event.type === 'checkpoint') console.log(`saved step ${event.step}`)
  }
} catch (error) {
  if (!(error instanceof AbortError)) throw error
  console.log(error.code)
}

const resumed = trainLoRAM({ ...options, resume: true })
const steps = []
for await (const event of resumed) if (event.type === 'step') steps.push(event.step)
console.log(`went on with step ${steps[0]}, ended with step ${steps.at(-1)}`)
