import path from 'node:path'
import {
  align,
  evaluate,
  exportModel,
  type LargeModel,
  loadModel,
  merge,
  plan,
  previewData,
  prune,
  recover,
  trainLoRAM,
} from 'loram'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { data, folder, model, options, text } from './support.ts'

/** What only JavaScript can call. */
type Loose = (given?: unknown) => PromiseLike<unknown>

describe('what is no options at all is refused where the promise is awaited', () => {
  const functions = { align, evaluate, exportModel, merge, previewData, prune, recover, trainLoRAM }
  test.each(Object.entries(functions))('%s', async (_name, call) => {
    for (const given of [undefined, null, {}, 5]) {
      await expect((call as Loose)(given)).rejects.toMatchObject({ code: 'E_CONFIG' })
    }
    await expect((call as Loose)({ nobody: 1 })).rejects.toMatchObject({ details: { field: 'nobody' } })
  })
})

describe('values that do not fit are shown as they are', () => {
  const circular: Record<string, unknown> = {}
  circular.self = circular
  test.each([
    [{ seed: 42n }, 'seed', '42n'],
    [{ lora: { alpha: Number.NaN } }, 'lora.alpha', 'NaN'],
    [{ output: circular }, 'output', '<ref *1> { self: [Circular *1] }'],
    [{ data: {} }, 'data.train', 'nothing'],
    [{ memory: 1.5 }, 'memory', '1.5'],
  ])('%o', async (over, field, found) => {
    const refused = (trainLoRAM as unknown as Loose)(options(over))
    await expect(refused).rejects.toMatchObject({ code: 'E_CONFIG', details: { field, found } })
  })

  test('a choice says what there is to choose from', async () => {
    const refused = { details: { expected: 'a path, or a list of paths' } }
    await expect((trainLoRAM as unknown as Loose)(options({ data: { train: 5 } }))).rejects.toMatchObject(refused)
  })

  test('and what is none at all has no name', () => {
    expect(() => (plan as unknown as (given?: unknown) => void)()).toThrow(/the options do not fit/)
  })
})

test('an event that the caller cannot take ends the work', async () => {
  const pruned = path.join(folder, 'pruned')
  await prune({ model, ratio: 0.5, layers: [1, 3], method: 'random', output: pruned })
  const onEvent = () => {
    throw new Error('not mine')
  }
  const output = path.join(folder, 'never aligned')
  const work = align({ model: pruned, output, data: text, steps: 2, batchSize: 2, sequenceLength: 32, onEvent })
  await expect(work).rejects.toThrow('not mine')
})

describe('a loaded model', () => {
  let loaded: LargeModel
  beforeAll(async () => {
    loaded = await loadModel(model, { device: 'cpu' })
  })
  afterAll(() => loaded.close())

  test('refuses what is no signal, and no options', async () => {
    const refused = { code: 'E_CONFIG', details: { field: 'signal', expected: 'an AbortSignal' } }
    for (const signal of [{}, 5]) {
      const given = { signal } as unknown as { signal: AbortSignal }
      await expect(loaded.complete('a', given)).rejects.toMatchObject(refused)
      await expect(loaded.generate('a', given)[Symbol.asyncIterator]().next()).rejects.toMatchObject(refused)
      await expect(trainLoRAM({ ...options(), ...given })).rejects.toMatchObject(refused)
    }
    await expect((loaded.evaluate as Loose)()).rejects.toMatchObject({ details: { field: 'data' } })
    expect((await loaded.complete('a', null as unknown as object)).promptTokens).toBeGreaterThan(0)
  })

  test('takes one signal for many calls', async () => {
    const warned = vi.fn()
    process.on('warning', warned)
    const { signal } = new AbortController()
    const calls = Array.from({ length: 20 }, () => loaded.complete('a', { maxNewTokens: 1, signal }))
    await Promise.all(calls)
    await new Promise(setImmediate)
    process.off('warning', warned)
    expect(warned).not.toHaveBeenCalled()
  })

  test('says that it was closed, to those who wait and to those who come later', async () => {
    const other = await loadModel(model, { device: 'cpu' })
    const waiting = other.evaluate({ data, sequenceLength: 48 })
    const closed = { code: 'E_WORKER', message: expect.stringContaining('it was closed') }
    const expectation = expect(waiting).rejects.toMatchObject(closed)
    await other.close()
    await expectation
    await expect(other.complete('a')).rejects.toMatchObject(closed)
  })
})
