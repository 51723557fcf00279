import { expect, test } from 'vitest'
import { evaluateExamples, evaluateLoss } from '../../src/infer/perplexity.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { goldenPath } from '../golden.ts'
import { expectGolden, goldenBatch, loadDirectory, testArena } from '../model/support.ts'
import { onEveryDevice, readGolden } from '../ops/support.ts'

onEveryDevice('an evaluation', (device) => {
  const golden = readGolden('models', 'llama3', 'golden.safetensors')
  const model = loadDirectory(goldenPath('models', 'llama3'), device)
  const micro = goldenBatch(golden, 'right.')
  const examples = Array.from({ length: micro.bounds.length - 1 }, (_, i) => {
    const [from, to] = [micro.bounds[i]!, micro.bounds[i + 1]!]
    return { ids: micro.ids.slice(from, to), targets: micro.targets.slice(from, to) }
  })

  // The golden examples have different numbers of targets: a mean of means would differ.
  test.each([1, 2, 3])('of micro-batches of %d weighs every target the same', (microBatchSize) => {
    const result = evaluateExamples(model, examples, { microBatchSize, sequenceLength: 12 }, neverAborted)!
    expectGolden([result.loss], golden('right.loss').data)
    expect(result.perplexity).toBe(Math.exp(result.loss))
    expect(result.tokens).toBe(micro.ids.length)
    expect(result.targets).toBe(micro.targets.filter((target) => target >= 0).length)
  })

  test('has no result when it is aborted', () => {
    const signal = { aborted: false }
    function* batches() {
      yield micro
      signal.aborted = true
      yield micro
    }
    expect(evaluateLoss(model, testArena(device), batches(), signal)).toBeUndefined()
  })
})
