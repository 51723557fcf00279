import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { AbortError, align, prune, type RunEvent } from 'loram'
import { beforeAll, describe, expect, test } from 'vitest'
import { folder, model, text } from './support.ts'

const pruned = path.join(folder, 'pruned')
beforeAll(() => prune({ model, method: 'random', ratio: 0.5, layers: [1, 3], output: pruned, device: 'cpu' }))

let outputs = 0
const options = (over: object = {}) => ({
  model: pruned,
  data: text,
  steps: 12,
  batchSize: 2,
  microBatchSize: 2,
  sequenceLength: 24,
  learningRate: 1e-3,
  output: path.join(folder, `aligned ${outputs++}`),
  device: 'cpu' as const,
  ...over,
})
type Options = ReturnType<typeof options>

const weights = ({ output }: Options) => readFileSync(path.join(output, 'model.safetensors'))
const checkpointsOf = ({ output }: Options) => `${output}.checkpoints`

async function abortAfter(steps: number, given: Options): Promise<void> {
  const controller = new AbortController()
  const onEvent = (event: RunEvent) => {
    if (event.type === 'step' && event.step === steps) controller.abort()
  }
  const run = align({ ...given, steps: 4000, signal: controller.signal, onEvent })
  await expect(run).rejects.toBeInstanceOf(AbortError)
}

describe('align', () => {
  test('leaves the aligned model and no checkpoints', async () => {
    const given = options()
    await align(given)
    expect(readdirSync(given.output)).toContain('pruning.json')
    expect(existsSync(checkpointsOf(given))).toBe(false)
  })

  test('stopped, it goes on only with what it was started with, unless it is forced', async () => {
    const given = options({ steps: 4000 })
    await abortAfter(3, given)
    const kept = readdirSync(checkpointsOf(given))
    expect(kept).toContainEqual(expect.stringMatching(/^step-/))
    await expect(align(given)).rejects.toMatchObject({ code: 'E_CONFIG', details: { field: 'output' } })
    await expect(align({ ...given, learningRate: 2e-3, resume: true })).rejects.toMatchObject({
      code: 'E_RESUME',
      details: { found: 'learningRate 0.002' },
    })
    expect(readdirSync(checkpointsOf(given))).toEqual(kept)
    const steps: number[] = []
    const onEvent = (event: RunEvent) => void (event.type === 'step' && steps.push(event.step))
    const stopped = Number(/\d+/.exec(kept.find((name) => name.startsWith('step-'))!)![0])
    await align({ ...given, steps: stopped + 2, resume: true, forceResume: true, onEvent })
    expect(steps).toEqual([stopped + 1, stopped + 2])
  })

  test('stopped by what its caller throws, it rejects with that, and goes on as after an abort', async () => {
    const given = options({ steps: 4000 })
    const thrown = new Error('not mine')
    const events: RunEvent[] = []
    const onEvent = (event: RunEvent) => {
      events.push(event)
      if (event.type === 'step') throw thrown
    }
    await expect(align({ ...given, onEvent })).rejects.toBe(thrown)
    expect(events.filter(({ type }) => type === 'step')).toHaveLength(1)
    const kept = readdirSync(checkpointsOf(given))
    expect(kept).toContainEqual(expect.stringMatching(/^step-/))
    const stopped = Number(/\d+/.exec(kept.find((name) => name.startsWith('step-'))!)![0])
    await align({ ...given, steps: stopped + 1, resume: true, forceResume: true })
  })

  test('does not take up what another run with the same output left', async () => {
    const given = options()
    await align(given)
    const alone = weights(given)
    rmSync(given.output, { recursive: true })
    await align({ ...given, learningRate: 1e-2 })
    expect(weights(given).equals(alone)).toBe(false)
  })

  test('refuses a folder that is not empty before it trains', async () => {
    const given = options()
    mkdirSync(given.output)
    writeFileSync(path.join(given.output, 'mine.txt'), '')
    const events: RunEvent[] = []
    await expect(align({ ...given, onEvent: (event) => void events.push(event) })).rejects.toMatchObject({
      code: 'E_FILE',
    })
    expect(events).toEqual([])
  })
})
