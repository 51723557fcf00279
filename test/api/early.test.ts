import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { type MemoryError, prune, trainLoRAM } from 'loram'
import { describe, expect, test } from 'vitest'
import { collect, data, folder, options, text } from './support.ts'

// What cannot end well is said before the work, not after it.

/** The error of a run, and what it had begun to do. */
async function failureOf(over: object) {
  const given = options(over)
  const run = trainLoRAM(given)
  await expect(collect(run)).rejects.toThrow()
  const { code, details } = (await run.then(undefined, (error) => error)) as MemoryError
  const events = path.join(given.output, 'run/events.jsonl')
  const begun = existsSync(events)
    ? readFileSync(events, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
        .flatMap(({ type, stage, status }) => (type === 'stage' && status === 'started' ? [stage] : []))
    : []
  return { code, field: details.field, begun }
}

const aligned = { align: { data: text, steps: 3, batchSize: 2, microBatchSize: 2, sequenceLength: 24 } }

describe('a run', () => {
  const train = options().train

  test.each([
    ['an amount that is none', { ...aligned, memory: '12 Gib of' }, 'memory', []],
    ['offload without a GPU', { ...aligned, train: { ...train, offload: true } }, 'offload', []],
    [
      'offload without recompute',
      { ...aligned, train: { ...train, offload: true, recompute: 'cheap' } },
      'offload',
      [],
    ],
    ['too little memory', { ...aligned, memory: '300 kB' }, 'memory', ['prune']],
    [
      'a target out of reach',
      { prune: { method: 'structured', targetParams: '1K', layers: [1, 3] } },
      'prune.targetParams',
      ['prune'],
    ],
  ])('refuses %s', async (_name, over, field, begun) => {
    expect(await failureOf(over)).toMatchObject({ field, begun })
  })

  test('refuses factors tried with an original that does not fit', async () => {
    const over = {
      quantize: 'none',
      prune: { ratio: 0.74, layers: [0, 4] }, // 414 kB train, the original's weights are 822 kB
      lora: { rank: 1, targets: ['q_proj'] },
      train: { ...train, microBatchSize: 1, recompute: 'full' },
      data: { train: data, eval: data, sequenceLength: 24 },
      recover: { scale: 'auto' },
      memory: 600_000,
    }
    expect(await failureOf(over)).toEqual({ code: 'E_MEMORY', field: 'recover.scale', begun: ['prune'] })
  })
})

test('calibration on the training data reads it as training does', async () => {
  const file = path.join(folder, 'with a bad line.jsonl')
  writeFileSync(file, `${readFileSync(data, 'utf8')}{"prompt": \n`)
  const skipping = { train: file, sequenceLength: 48, onBadLine: 'skip' }
  await trainLoRAM(options({ data: skipping, prune: { ratio: 0.5, layers: [1, 3], method: 'structured' } }))
})

test('pruning refuses a folder that is not empty before it reads the model', async () => {
  await expect(prune({ model: path.join(folder, 'none'), method: 'random', output: folder })).rejects.toMatchObject({
    code: 'E_FILE',
    details: { file: folder },
  })
})
