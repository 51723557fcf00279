import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Example } from '../../src/data/encode.ts'
import * as packing from '../../src/data/packing.ts'

const { Wrapper } = packing

function packBestFit(lengths: number[], capacity: number): number[][] {
  const { members, bounds } = packing.packBestFit(Uint32Array.from(lengths), capacity)
  return Array.from(bounds.slice(1), (end, row) => [...members.slice(bounds[row], end)])
}

describe('packBestFit', () => {
  const cases = fc.integer({ min: 1, max: 64 }).chain((capacity) =>
    fc.record({
      capacity: fc.constant(capacity),
      lengths: fc.array(fc.integer({ min: 1, max: capacity }), { maxLength: 200 }),
    }),
  )

  test('places every example once and fills no row above capacity', () => {
    fc.assert(
      fc.property(cases, ({ capacity, lengths }) => {
        const rows = packBestFit(lengths, capacity)
        expect(rows.flat().sort((a, b) => a - b)).toEqual([...lengths.keys()])
        for (const row of rows) {
          const tokens = row.reduce((sum, example) => sum + lengths[example]!, 0)
          expect(tokens).toBeGreaterThan(0)
          expect(tokens).toBeLessThanOrEqual(capacity)
        }
      }),
    )
  })

  test('leaves no two rows that would fit into one', () => {
    fc.assert(
      fc.property(cases, ({ capacity, lengths }) => {
        const fills = packBestFit(lengths, capacity).map((row) => row.reduce((sum, i) => sum + lengths[i]!, 0))
        const [emptiest = capacity, next = capacity] = fills.sort((a, b) => a - b)
        expect(emptiest + next).toBeGreaterThan(capacity)
      }),
    )
  })

  test('goes by length, and by index among equals', () => {
    expect(packBestFit([3, 7, 5, 5, 8, 2], 10)).toEqual([
      [4, 5],
      [1, 0],
      [2, 3],
    ])
  })

  test('prefers the fullest row that has room', () => {
    expect(packBestFit([6, 5, 4], 10)).toEqual([[0, 2], [1]])
  })
})

describe('Wrapper', () => {
  test('loses no token, fills all sequences but the last, and shifts targets', () => {
    const documents = fc.array(fc.array(fc.nat(99), { maxLength: 30 }), { maxLength: 20 })
    fc.assert(
      fc.property(documents, fc.integer({ min: 2, max: 16 }), (texts, length) => {
        const examples: Example[] = []
        const wrapper = new Wrapper(length, (example) => examples.push(example))
        for (const text of texts) wrapper.add(text)
        wrapper.end()
        const stream = texts.flat()
        // one token alone has nothing to predict
        const kept = stream.length % length === 1 ? stream.slice(0, -1) : stream
        expect(examples.flatMap(({ ids }) => [...ids])).toEqual(kept)
        for (const { ids } of examples.slice(0, -1)) expect(ids.length).toBe(length)
        for (const { ids, targets } of examples) expect([...targets]).toEqual([...ids.slice(1), -100])
      }),
    )
  })
})
