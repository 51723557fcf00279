import { readdirSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { AbortError, ConfigError, FileError, MemoryError, plan, RunError, trainLoRAM } from 'loram'
import { describe, expect, test } from 'vitest'
import { abortAfter, collect, data, folder, long, model, options, text } from './support.ts'

describe('errors come with their class, code and remedy through the thread', () => {
  test('a wrong option, where the run is awaited and where it is iterated', async () => {
    const run = trainLoRAM({ ...options(), lora: { rnak: 8 } } as unknown as Parameters<typeof trainLoRAM>[0])
    await expect(run).rejects.toBeInstanceOf(ConfigError)
    await expect(collect(run)).rejects.toThrow(/did you mean rank/)
  })

  // vitest fails where a rejection is not handled
  test('a wrong option of a run that is only iterated, only awaited, or neither', async () => {
    const start = trainLoRAM as unknown as (given?: unknown) => ReturnType<typeof trainLoRAM>
    start({ nobody: 1 })
    await expect(collect(start({ nobody: 1 }))).rejects.toMatchObject({ details: { field: 'nobody' } })
    await expect(start({ nobody: 1 })).rejects.toMatchObject({ details: { field: 'nobody' } })
    await new Promise(setImmediate)
  })

  test.each([
    ['auto without the large model', { prune: undefined, recover: { scale: 'auto' } }, /only a run that prunes it/],
    [
      'auto without held-out data',
      { data: { train: data }, recover: { scale: 'auto' } },
      /data\.eval or data\.evalSplit with auto/,
    ],
    ['a factor where nothing is recovered', { prune: undefined, recover: { scale: 0.5 } }, /nothing to recover/],
    ['rotation with alignment', { prune: { rotate: {} }, align: { data: text, steps: 1 } }, /none with prune.rotate/],
    ['finishing without an original', { prune: undefined, recover: { finish: { steps: 1 } } }, /prune with it/],
    ['rotation of single weights', { prune: { method: 'unstructured', rotate: {} } }, /structured or random/],
    ['a core of a random choice', { prune: { method: 'random', rotate: { core: 0.2 } } }, /structured with a core/],
    ['rotation and filling', { prune: { rotate: {} }, recover: { fill: 'normal' } }, /nothing is left to fill/],
    ['filling where nothing was cut', { prune: undefined, recover: { fill: 'normal' } }, /nothing to fill/],
    [
      'filling where all shapes stay',
      { prune: { method: 'unstructured' }, recover: { fill: 'normal' } },
      /leave nothing to fill/,
    ],
    ['alignment without pruning', { prune: undefined, align: { data: text, steps: 1 } }, /only a pruned model/],
    ['patience without evaluations', { data: { train: data }, train: { patience: 2 } }, /data\.evalSplit with it/],
  ])('%s is refused', async (_name, over, message) => {
    const start = async () => await trainLoRAM(options(over as object))
    await expect(start()).rejects.toMatchObject({ code: 'E_CONFIG', message: expect.stringMatching(message) })
  })

  test('a missing model', async () => {
    await expect(trainLoRAM(options({ model: path.join(folder, 'none') }))).rejects.toBeInstanceOf(FileError)
  })

  test('too little memory, and what saves most of it; so a smaller job trains', async () => {
    const { prune, lora, train } = options()
    const least = plan({ model, prune, lora, microBatchSize: 2, sequenceLength: 48, recompute: 'full', device: 'cpu' })
    const memory = least.training.bytes.total - 1
    const refused = await trainLoRAM(options({ memory, quantizeTables: false })).then(
      undefined,
      (error: MemoryError) => error,
    )
    expect(refused).toBeInstanceOf(MemoryError)
    const { remedy } = (refused as MemoryError).details
    expect(remedy).toMatch(/^\S+ \S+ saves [\d.]+ \wiB(; \S+ \S+ saves [\d.]+ \wiB){2}$/)
    expect(remedy).toContain('microBatchSize 1 saves')
    await trainLoRAM(options({ memory, train: { ...train, microBatchSize: 1 } }))
  })

  test('an output that holds a run', async () => {
    const given = options()
    await trainLoRAM(given)
    await expect(trainLoRAM(given)).rejects.toMatchObject({ code: 'E_CONFIG' })
  })

  test('a run that came to nothing leaves its folder to the next one', async () => {
    const given = options()
    const mistyped = { ...given, data: { train: path.join(folder, 'trian.jsonl') } }
    await expect(trainLoRAM(mistyped)).rejects.toMatchObject({ code: 'E_DATA' })
    await trainLoRAM(given)
  })

  test.each([
    ['other options', { seed: 1 }, /seed/],
    ['tables in another form', { quantizeTables: true }, /tables "none"[\s\S]*tables "nf4"/],
    ['other data', { data: { train: text, format: 'text', sequenceLength: 48 } }, /train/],
  ])('resuming with %s names the difference', async (_name, over, message) => {
    const given = options()
    await abortAfter(1, { output: given.output })
    const resumed = trainLoRAM(options({ output: given.output, train: long, resume: true, ...over }))
    await expect(resumed).rejects.toMatchObject({ code: 'E_RESUME', message: expect.stringMatching(message) })
  })

  test('a folder that another process works in, and one whose process is gone', async () => {
    const given = options()
    await abortAfter(1, { output: given.output })
    const lock = path.join(given.output, 'run/lock')
    writeFileSync(lock, JSON.stringify({ pid: process.ppid, host: os.hostname() }))
    await expect(trainLoRAM(options({ output: given.output, train: long, resume: true }))).rejects.toBeInstanceOf(
      RunError,
    )
    writeFileSync(lock, JSON.stringify({ pid: 2 ** 22 + 1, host: os.hostname() }))
    const events = await collect(trainLoRAM(options({ output: given.output, train: long, resume: true })))
    expect(events.some((e) => e.type === 'notice' && e.message.includes('took over the lock'))).toBe(true)
  })

  test('a loss that is no number names the examples', async () => {
    const train = { ...options().train, learningRate: 1e30, maxGradNorm: 0 }
    const found = expect.stringMatching(/^examples \d+/)
    await expect(trainLoRAM(options({ train }))).rejects.toMatchObject({ code: 'E_NAN_LOSS', details: { found } })
  })

  test.each([
    ['held-out loss', { learningRate: 1e38, maxSteps: 1, evalSteps: 1 }, {}, /the held-out loss after step 1/],
    ['parameter', { learningRate: 1e39, maxSteps: 1 }, { data: { train: data } }, /a parameter of train after step 1/],
  ])('a %s that is no number, before anything of it is kept', async (_name, train, over, message) => {
    const given = options({ train: { ...options().train, ...train }, ...over })
    await expect(trainLoRAM(given)).rejects.toMatchObject({
      code: 'E_NAN_LOSS',
      message: expect.stringMatching(message),
    })
    expect(readdirSync(path.join(given.output, 'run/checkpoints'))).toEqual([])
  })

  test('after a loss that is no number training goes on from the last checkpoint, more slowly', async () => {
    const given = options({ train: { ...long, learningRate: 1e30, maxGradNorm: 0 } })
    await abortAfter(2, { output: given.output })
    const error = await trainLoRAM({ ...given, resume: true, forceResume: true }).then(undefined, (e: RunError) => e)
    expect(error).toMatchObject({ code: 'E_NAN_LOSS', details: { file: expect.stringMatching(/checkpoints.step-/) } })
    const slower = { ...given, train: { ...long, maxSteps: 6 }, resume: true, forceResume: true }
    expect((await trainLoRAM(slower)).metrics.steps).toBe(6)
  })

  test.each([
    ['a rank', { lora: { rank: 8, dropout: 0.1 } }],
    ['targets', { lora: { rank: 4, dropout: 0.1, targets: ['q_proj'] } }],
  ])('forceResume does not take %s for another', async (_name, over) => {
    const given = options()
    await abortAfter(1, { output: given.output })
    const resumed = trainLoRAM(options({ output: given.output, train: long, resume: true, forceResume: true, ...over }))
    await expect(resumed).rejects.toMatchObject({ code: 'E_RESUME', message: expect.stringContaining('lora_') })
  })

  test('an abort before the start', async () => {
    await expect(trainLoRAM({ ...options(), signal: AbortSignal.abort() })).rejects.toBeInstanceOf(AbortError)
  })
})
