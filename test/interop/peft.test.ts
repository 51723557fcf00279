import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { merge, trainLoRAM } from 'loram'
import { beforeAll, describe, expect, test } from 'vitest'
import { readAdapter } from '../../src/formats/peft.ts'
import { attachAdapter } from '../../src/lora/attach.ts'
import { cpu } from '../../src/tensor/device.ts'
import { writeRecords, writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { forwardLogits, loadDirectory } from '../model/support.ts'

const python = process.env.LORAM_PEER_PYTHON
const script = fileURLToPath(new URL('logits.py', import.meta.url))
const reason = 'LORAM_PEER_PYTHON names no Python with torch, transformers and peft'

/** `mergeError` is what rounding the merged weights to the dtype they are stored in, f32 or bf16, may change in a logit. */
const models: { golden: string[]; layers: [number, number]; mergeError: number }[] = [
  { golden: ['loram', 'large'], layers: [1, 3], mergeError: 1e-3 },
  { golden: ['models', 'qwen2'], layers: [1, 2], mergeError: 0.2 },
  { golden: ['models', 'qwen3'], layers: [1, 2], mergeError: 0.2 },
]
const title = `transformers and PEFT read what loram writes (skipped: ${python ? '' : reason})`

describe.skipIf(!python).each(models)(`${title}: $golden.1`, ({ golden, layers, mergeError }) => {
  const folder = scratchFolder()
  const at = (name: string) => path.join(folder, name)
  const ids = Int32Array.from({ length: 24 }, (_, i) => (7 * i + 3) % 160)
  const micro = { ids, targets: ids, positions: ids.map((_, i) => i), bounds: Int32Array.of(0, ids.length) }
  const theirs = (model: string, adapter = '-'): number[] =>
    JSON.parse(execFileSync(python!, [script, model, adapter, JSON.stringify([...ids])], { encoding: 'utf8' }))
  const ours = (model: string, adapter?: string) => {
    const loaded = loadDirectory(model, cpu)
    if (adapter) attachAdapter(loaded, readAdapter(adapter))
    return forwardLogits(loaded, micro)
  }
  const difference = (a: ArrayLike<number>, b: ArrayLike<number>) =>
    Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)

  beforeAll(async () => {
    writeTinyModel(at('model'), golden)
    await trainLoRAM({
      model: at('model'),
      data: { train: writeRecords(at('train.jsonl'), 20), sequenceLength: 48 },
      prune: { ratio: 0.5, layers },
      train: { batchSize: 4, learningRate: 1e-2, maxSteps: 5 },
      output: at('adapter'),
      device: 'cpu',
    })
    await merge({ model: at('model'), adapter: at('adapter'), output: at('merged') })
  }, 60_000)

  test('the recovered adapter, on the original model', () => {
    expect(difference(ours(at('model'), at('adapter')), ours(at('model')))).toBeGreaterThan(1e-2)
    expect(difference(theirs(at('model'), at('adapter')), ours(at('model'), at('adapter')))).toBeLessThan(1e-3)
  })

  test('the merged model', () => {
    expect(difference(theirs(at('merged')), ours(at('merged')))).toBeLessThan(1e-3)
    expect(difference(ours(at('merged')), ours(at('model'), at('adapter')))).toBeLessThan(mergeError)
  })
})
