import { describe, expect, test } from 'vitest'
import { generateDefaults, generateTokens } from '../../src/infer/generate.ts'
import { evaluateLoss } from '../../src/infer/perplexity.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { goldenPath } from '../golden.ts'
import { onEveryDevice, readGolden } from '../ops/support.ts'
import { expectGolden, forwardLogits, loadDirectory, rowsOf, testArena, unpad } from './support.ts'

onEveryDevice('golden models', (device) => {
  describe.each(['llama2', 'llama3', 'llama3-tied', 'mistral', 'qwen2', 'qwen3'])('%s', (name) => {
    const model = loadDirectory(goldenPath('models', name), device)
    const golden = readGolden('models', name, 'golden.safetensors')
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
