import { describe, expect, test } from 'vitest'
import { KvCache } from '../../src/model/kvCache.ts'
import { logitsOf, modelForward } from '../../src/model/model.ts'
import { toDevice } from '../../src/train/step.ts'
import { expectError } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { generator, onEveryDevice } from '../ops/support.ts'
import { expectGolden, forwardLogits, loadDirectory, testArena } from './support.ts'

onEveryDevice('the key-value cache', (device) => {
  const next = generator(2)
  const ids = Int32Array.from({ length: 40 }, () => Math.floor((next() + 1) * 80))
  const positions = ids.map((_, i) => i)

  describe.each(['llama3', 'mistral', 'qwen3'])('of %s', (name) => {
    const model = loadDirectory(goldenPath('models', name), device)
    test.each([[[40]], [[39, 1]], [[1, 39]], [[7, 16, 17]], [Array(40).fill(1)]])(
      'gives the same logits in pieces of %j',
      (pieces: number[]) => {
        const whole = forwardLogits(model, { ids, targets: ids, positions, bounds: Int32Array.of(0, ids.length) })
        const arena = testArena(device)
        const cache = new KvCache(model, 1, ids.length)
        const logits = pieces.flatMap((count) => {
          const from = cache.length(0)
          const pass = cache.advance([[0, count]], arena)
          const tokens = toDevice(arena, { ids: ids.slice(from, from + count), ...pass })
          return Array.from(logitsOf(model, modelForward(model, arena, tokens, pass.layers)).read() as Float32Array)
        })
        expectGolden(logits, whole)
        expect(cache.length(0)).toBe(ids.length)
      },
    )
  })

  test('refuses tokens that it has no room for, and keeps what it has', () => {
    const model = loadDirectory(goldenPath('models', 'llama3'), device)
    const arena = testArena(device)
    const cache = new KvCache(model, 1, 3)
    cache.advance([[0, 2]], arena)
    expectError(() => cache.advance([[0, 2]], arena), 'E_MEMORY', { expected: 'at most 3 tokens', found: '4' })
    expect(cache.length(0)).toBe(2)
  })
})
