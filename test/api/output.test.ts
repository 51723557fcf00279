import { readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { plan, recover, trainLoRAM } from 'loram'
import { expect, test } from 'vitest'
import { abortAfter, long, model, options } from './support.ts'

const occupied = { code: 'E_FILE', message: expect.stringContaining('holds a model or an adapter already') }
const adapterIn = (folder: string) => readFileSync(path.join(folder, 'adapter_model.safetensors'))

test('an adapter whose run was removed is not overwritten, nor is a model given one', async () => {
  const given = options()
  const pruned = path.join(given.output, 'run/prunedAdapter')
  await trainLoRAM(given)
  const recovering = { adapter: pruned, pruning: path.join(given.output, 'run/pruned') }
  const before = adapterIn(given.output)
  for (const output of [given.output, pruned, model]) {
    await expect(recover({ ...recovering, output })).rejects.toMatchObject(occupied)
  }
  const inRun = { output: `${given.output} again` }
  await recover({ ...recovering, ...inRun })
  rmSync(path.join(given.output, 'run'), { recursive: true })
  for (const output of [given.output, model]) {
    await expect(trainLoRAM({ ...given, seed: 7, output })).rejects.toMatchObject(occupied)
    expect(readdirSync(output)).not.toContain('run')
  }
  expect(adapterIn(given.output)).toEqual(before)
})

test('what a forced run would change is remembered only once something is made of it', async () => {
  const given = options({ train: long })
  const resumed = { ...given, resume: true }
  await abortAfter(2, { output: given.output })
  const file = path.join(given.output, 'run/options.json')
  const before = readFileSync(file, 'utf8')
  await expect(trainLoRAM({ ...resumed, lora: { rank: 8 }, forceResume: true })).rejects.toMatchObject({
    code: 'E_RESUME',
  })
  expect(readFileSync(file, 'utf8')).toBe(before)
  const fewer = { ...long, maxSteps: 4 }
  await trainLoRAM({ ...resumed, train: fewer, forceResume: true })
  expect(JSON.parse(readFileSync(file, 'utf8')).train.maxSteps).toBe(4)
  await trainLoRAM({ ...resumed, train: fewer })
})

test('sequences that nobody has memory for are refused at once', () => {
  const refused = expect.objectContaining({
    code: 'E_CONFIG',
    details: expect.objectContaining({ found: '4000000000' }),
  })
  expect(() => plan({ model, sequenceLength: 1e9, device: 'cpu' })).toThrow(refused)
})

test('a run says where sequences are longer than the model was made for', async () => {
  const { train, ...given } = options()
  const notices: string[] = []
  const run = trainLoRAM({ ...given, train: { ...train, maxSteps: 1 }, data: { ...given.data, sequenceLength: 300 } })
  for await (const event of run) if (event.type === 'notice') notices.push(event.message)
  expect(notices).toContain(
    'data.sequenceLength is 300, and the model was made for 256 tokens (max_position_embeddings)',
  )
})
