import { afterEach, describe, test } from 'vitest'
import { embedding, embeddingBackward } from '../../src/native/embedding.ts'
import { gatherRows } from '../../src/native/gather.ts'
import { dequantizeNf4, nf4Embedding, quantizeNf4 } from '../../src/native/nf4.ts'
import { tensorFrom } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import {
  expectWithin,
  floatsOf,
  generator,
  grid,
  onEveryDevice,
  random,
  storing,
  toArray,
  unitRoundoff,
} from './support.ts'

onEveryDevice('embedding', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())
  const vocab = 50

  describe.each(grid({ tokens: [1, 7, 129], hidden: [1, 61, 4300] } as const))(
    '$tokens tokens, hidden $hidden',
    ({ tokens, hidden }) => {
      const next = generator(5)
      // 129 tokens of 50 ids: most ids repeat.
      const ids = Int32Array.from({ length: tokens }, () => Math.floor(((next() + 1) / 2) * vocab))

      test.each(['f32', 'bf16'] as const)('copies rows of %s', (dtype) => {
        const weight = random(device, [vocab, hidden], dtype)
        const rows = toArray(weight)
        const want = new Float64Array(tokens * hidden)
        ids.forEach((id, i) => {
          want.set(rows.subarray(id * hidden, (id + 1) * hidden), i * hidden)
        })
        // Exact, but where wider weights become activations.
        const rounding = dtype === 'f32' ? storing(device.activations) : 0
        expectWithin(embedding(weight, tensorFrom(device, ids)), want, (value) => rounding * Math.abs(value))
      })

      // Widths of 61 and 4300 put the borders of blocks inside of rows, 61 also those of bytes.
      test.each([true, false])('gathers the rows that NF4 stands for, double quantised: %s', (doubleQuantize) => {
        const weight = quantizeNf4(random(device, [vocab, hidden]), { doubleQuantize })
        const indices = tensorFrom(device, ids)
        const want = gatherRows(dequantizeNf4(weight, device.activations), indices)
        expectWithin(nf4Embedding(weight, indices), toArray(want), () => 0)
      })

      test.each(floatsOf(device))('backward adds the rows of repeated ids, %s', (dtype) => {
        const dy = random(device, [tokens, hidden], dtype)
        const dweight = random(device, [vocab, hidden], 'f32', 2)
        const want = toArray(dweight)
        const magnitude = want.map(Math.abs)
        toArray(dy).forEach((value, at) => {
          const to = ids[Math.floor(at / hidden)]! * hidden + (at % hidden)
          want[to] = want[to]! + value
          magnitude[to] = magnitude[to]! + Math.abs(value)
        })
        embeddingBackward(dy, tensorFrom(device, ids), dweight)
        // One rounding for every addition to the element; no id occurs more often than there are tokens.
        expectWithin(dweight, want, (_, at) => tokens * unitRoundoff.f32 * magnitude[at]!)
      })
    },
  )
})
