// The scenarios of lifecycle.test.ts: what a process may do while a model trains in it. usage: lifecycle.mjs NAME FOLDER
import { mkdtempSync } from 'node:fs'
import path from 'node:path'
import { AbortError, trainLoRAM } from '../../dist/index.js'

const [scenario, root] = process.argv.slice(2)

const start = (maxSteps, signal) =>
  trainLoRAM({
    model: path.join(root, 'model'),
    data: { train: path.join(root, 'train.jsonl'), sequenceLength: 48 },
    prune: { ratio: 0.5, layers: [1, 3], method: 'random' },
    train: { batchSize: 4, maxSteps, epochs: 10_000, saveSteps: 1_000 },
    output: path.join(mkdtempSync(path.join(root, 'out-')), 'run'),
    device: 'cpu',
    ...(signal && { signal }),
  })

async function firstStep(run) {
  for await (const event of run) if (event.type === 'step') return
}

const scenarios = {
  async two() {
    const [a, b] = await Promise.all([start(20), start(20)])
    console.log(`finished ${a.metrics.steps} and ${b.metrics.steps} steps`)
  },
  async exit() {
    await firstStep(start(100_000))
    console.log('exiting')
    process.exit(0)
  },
  async throw() {
    await firstStep(start(100_000))
    throw new Error('on purpose')
  },
  async again() {
    const controller = new AbortController()
    const run = start(100_000, controller.signal)
    await firstStep(run)
    controller.abort()
    const aborted = await run.then(
      () => false,
      (error) => error instanceof AbortError,
    )
    const { metrics } = await start(20)
    console.log(`${aborted ? 'aborted' : 'not aborted'}, then finished ${metrics.steps} steps`)
  },
  async many() {
    const resident = []
    for (let i = 0; i < 20; i++) {
      await start(2)
      resident.push(process.memoryUsage.rss())
    }
    // Threads come and go; what each leaves behind would add up
    const growth = Math.min(...resident.slice(15)) - Math.min(...resident.slice(7, 12))
    console.log(growth < 24 * 2 ** 20 ? 'memory is steady' : `memory grew by ${growth} bytes`)
  },
}

await scenarios[scenario]()
