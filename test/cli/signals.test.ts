import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { scratchFolder } from '../formats/scratch.ts'
import { lastLine, loram, start, writeRecords, writeTinyModel } from './support.ts'

const dir = scratchFolder()
const at = (name: string) => path.join(dir, name)
const [model, records, long] = [at('model'), at('train.jsonl'), at('long.jsonl')]
const base = ['train', '--model', model, '--prune.layers', '1,3', '--prune.ratio', '0.5', '--json']
const shortSteps = [...base, '--data.train', records, '--train.batch-size', '8', '--train.epochs', '20']

beforeAll(() => {
  writeTinyModel(model)
  writeRecords(records, 64)
  writeRecords(long, 64, 30)
})

const adapterOf = (folder: string) => readFileSync(path.join(folder, 'adapter_model.safetensors'))

describe.each(['SIGINT', 'SIGTERM'] as const)('%s', (signal) => {
  const output = at(signal)

  test('stops training at a step’s end with a checkpoint, and resuming ends where an uninterrupted run ends', async () => {
    const command = start([...shortSteps, '--output', output])
    await command.seen('train 1/160')
    command.process.kill(signal)
    const { exitCode, stdout, stderr } = await command.finished
    expect(exitCode).toBe(130)
    expect(lastLine(stdout)).toMatchObject({ error: { code: 'E_ABORTED', remedy: expect.stringContaining('resume') } })
    expect(stderr).toContain('interrupt again to stop at once')
    expect(readdirSync(path.join(output, 'run/checkpoints'))).toEqual([expect.stringMatching(/^step-\d{8}$/)])
    expect(existsSync(path.join(output, 'run/lock'))).toBe(false)
    expect(existsSync(path.join(output, 'adapter_model.safetensors'))).toBe(false)

    const resumed = await loram(...shortSteps, '--output', output, '--resume')
    expect(resumed.exitCode).toBe(0)
    const whole = await loram(...shortSteps, '--output', at(`${signal}-whole`))
    expect(lastLoss(resumed.stdout)).toBe(lastLoss(whole.stdout))
    expect(adapterOf(output).equals(adapterOf(at(`${signal}-whole`)))).toBe(true)
  })
})

const lastLoss = (stdout: string) =>
  stdout
    .split('\n')
    .filter((line) => line.includes('"type":"step"'))
    .map((line) => JSON.parse(line).loss)
    .at(-1)

test('a second signal kills at once, and the next run goes on', async () => {
  const output = at('twice')
  const longSteps = [...base, '--data.train', long, '--train.batch-size', '640', '--train.epochs', '10']
  const command = start([...longSteps, '--output', output])
  await command.seen('train: started')
  command.process.kill('SIGINT')
  await command.seen('interrupt again')
  command.process.kill('SIGINT')
  const { signal, exitCode, stderr } = await command.finished
  expect([signal, exitCode]).toEqual(['SIGINT', null])
  expect(stderr).not.toContain('E_ABORTED')

  const next = start([...longSteps, '--output', output, '--resume'])
  await next.seen('took over the lock')
  next.process.kill('SIGINT')
  await next.seen('interrupt again')
  next.process.kill('SIGINT')
  await next.finished
})

test('a command that cannot stop halfway ends at the first signal', async () => {
  const command = start(['prune', '--model', model, '--calibration.data', long, '--output', at('p'), '--layers', '1,3'])
  command.process.kill('SIGTERM')
  expect((await command.finished).signal).toBe('SIGTERM')
})
