import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { AbortError, type RunEvent, trainLoRAM } from 'loram'
import { beforeAll, expect } from 'vitest'
import { writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'

/** A folder of the test file's own, with a tiny model and what it learns. */
export const folder = scratchFolder('loram api ✨ ')
export const model = path.join(folder, 'model')
export const data = path.join(folder, 'train.jsonl')
export const text = path.join(folder, 'corpus.txt')

beforeAll(() => {
  writeTinyModel(model)
  const records = Array.from({ length: 24 }, (_, i) => ({ prompt: `${i} plus ${i} is`, completion: ` ${2 * i}.` }))
  writeFileSync(data, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  writeFileSync(text, 'The quick brown fox jumps over the lazy dog. '.repeat(40))
})

let runs = 0
/** Ten steps on a pruned model of the tiny one; every call has an output of its own unless `over` names it. */
export const options = (over: object = {}) => ({
  model,
  data: { train: data, eval: data, sequenceLength: 48 },
  prune: { ratio: 0.5, layers: [1, 3] as [number, number] },
  lora: { rank: 4, dropout: 0.1 },
  train: { batchSize: 4, microBatchSize: 2, learningRate: 1e-2, maxSteps: 10, epochs: 4, saveSteps: 100, evalSteps: 5 },
  output: path.join(folder, `run ${runs++}`),
  device: 'cpu' as const,
  ...over,
})

/** So many steps that an abort after the first few comes long before the end. */
export const long = { ...options().train, maxSteps: 60, epochs: 60 }

export async function collect(events: AsyncIterable<RunEvent>): Promise<RunEvent[]> {
  const all: RunEvent[] = []
  for await (const event of events) all.push(event)
  return all
}

/** Aborts a run of `over` after `steps` steps. */
export async function abortAfter(steps: number, over: object): Promise<void> {
  const controller = new AbortController()
  const run = trainLoRAM({ ...options({ train: long, ...over }), signal: controller.signal })
  const follow = async () => {
    for await (const event of run) if (event.type === 'step' && event.step === steps) controller.abort()
  }
  await expect(follow()).rejects.toBeInstanceOf(AbortError)
}
