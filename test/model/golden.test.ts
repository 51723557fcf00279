import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { generateDefaults, generateTokens } from '../../src/infer/generate.ts'
import { evaluateLoss } from '../../src/infer/perplexity.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { goldenPath } from '../golden.ts'
import { onEveryDevice, readTensors } from '../ops/support.ts'
import { expectGolden, forwardLogits, loadDirectory, rowsOf, testArena, unpad } from './support.ts'

const models = ['llama2', 'llama3', 'llama3-tied', 'mistral', 'qwen2', 'qwen3'].map((name) =>
  goldenPath('models', name),
)
/** Too large to be shipped for what it adds: heads of 64, as the GPU's own kernels take them. */
const heads64 = fileURLToPath(new URL('../../../shared/golden/models/llama-hd64', import.meta.url))
if (existsSync(heads64)) models.push(heads64)
else test.skip(`llama-hd64 (skipped: ${heads64} is not there)`)

onEveryDevice('golden models', (device) => {
  describe.each(models.map((dir) => [path.basename(dir), dir] as const))('%s', (_name, dir) => {
    const model = loadDirectory(dir, device)
    const golden = readTensors(path.join(dir, 'golden.safetensors'))
    const { vocabSize } = model.config

    test.each(['right', 'left'])('logits and loss, padded on the %s', (side) => {
      const { shape } = golden(`${side}.input_ids`)
      const micro = unpad(
        golden(`${side}.input_ids`).ints,
        golden(`${side}.attention_mask`).ints,
        golden(`${side}.labels`).ints,
        shape[0]!,
      )
      const want = rowsOf(golden(`${side}.logits`).data, micro.kept, vocabSize)
      expectGolden(forwardLogits(model, micro), want)
      const { loss } = evaluateLoss(model, testArena(device), [micro], neverAborted)!
      expectGolden([loss], golden(`${side}.loss`).data)
    })

    test('greedy tokens with the cache', () => {
      const ids = golden('greedy.ids')
      const length = ids.shape[1]!
      for (let row = 0; row < ids.shape[0]!; row++) {
        const sequence = Array.from(ids.ints.subarray(row * length, (row + 1) * length))
        const options = { ...generateDefaults, maxNewTokens: length - 6 }
        const endless = { ...model, config: { ...model.config, eosTokenIds: [] } }
        expect(Array.from(generateTokens(endless, sequence.slice(0, 6), options))).toEqual(sequence.slice(6))
      }
    })
  })
})
