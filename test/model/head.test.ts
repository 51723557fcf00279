import { expect, test } from 'vitest'
import { type Head, headLoss, targetsOf } from '../../src/model/head.ts'
import type { Dropout } from '../../src/model/linear.ts'
import { Arena } from '../../src/tensor/arena.ts'
import { tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { expectWithin, generator, onEveryDevice, random, toArray, unitRoundoff } from '../ops/support.ts'

test('targets are the positions from which something is learnt', () => {
  const { rows, ids } = targetsOf(Int32Array.of(-100, 7, -1, 0, 9, -100))
  expect(Array.from(rows)).toEqual([1, 3, 4])
  expect(Array.from(ids)).toEqual([7, 0, 9])
})

onEveryDevice('the output head', (device) => {
  // With so many tokens to choose from, logits of 16 rows make up a chunk.
  const vocab = 2 ** 20
  const chunk = 16
  const hidden = 4
  const rank = 1
  const lora = {
    a: random(device, [rank, hidden], 'f32', 2),
    b: random(device, [vocab, rank], 'f32', 3),
    grads: { a: zeros(device, [rank, hidden], 'f32'), b: zeros(device, [vocab, rank], 'f32') },
    scale: 1,
    index: 5,
  }
  const head: Head = {
    norm: { weight: tensorFrom(device, new Float32Array(hidden).fill(1)) },
    linear: { weight: random(device, [vocab, hidden]), lora },
  }
  const next = generator(4)
  const states = Float32Array.from({ length: 1.5 * chunk * hidden }, next)
  const targets = Int32Array.from({ length: states.length / hidden }, () => Math.floor(((next() + 1) / 2) * vocab))

  /** Loss and d loss / d x of rows [tokens, hidden], all with targets. */
  function lossOf(rows: Float32Array, ids: Int32Array, dropout?: Dropout) {
    const arena = new Arena(device, 512 << 20)
    const x = tensorFrom(arena, rows, [ids.length, hidden])
    const dx = zeros(arena, x.shape, 'f32')
    const loss = zeros(arena, [1], 'f32')
    headLoss(head, 1e-5, x, targetsOf(ids), 1, loss, { dx, dropout })
    const result = { loss: loss.item(), dx: toArray(dx) }
    arena.dispose()
    return result
  }

  test('computes the same however many chunks there are', () => {
    const whole = lossOf(states, targets)
    const chunks = [0, chunk].map((from) =>
      lossOf(states.slice(from * hidden, (from + chunk) * hidden), targets.slice(from, from + chunk)),
    )
    const sum = chunks.reduce((total, { loss }) => total + loss, 0)
    expectWithin([whole.loss], [sum], (want) => targets.length * unitRoundoff.f32 * want)
    expect(Array.from(whole.dx)).toEqual(chunks.flatMap(({ dx }) => Array.from(dx)))
  })

  test('draws dropout masks of its own for every chunk', () => {
    const sameRows = Float32Array.from({ length: 2 * chunk * hidden }, (_, i) => states[i % (chunk * hidden)]!)
    const sameTargets = Int32Array.from({ length: 2 * chunk }, (_, i) => targets[i % chunk]!)
    const dropout = { rate: 0.5, seed: 1, stream: 0 }
    const { dx } = lossOf(sameRows, sameTargets, dropout)
    expect(dx.slice(chunk * hidden)).not.toEqual(dx.slice(0, chunk * hidden))
    const plain = lossOf(sameRows, sameTargets).dx
    expect(plain.slice(chunk * hidden)).toEqual(plain.slice(0, chunk * hidden))
  })
})
