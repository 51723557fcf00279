import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type BatchState, batchStream, evaluationBatches } from '../../src/data/batches.ts'
import type { Example } from '../../src/data/encode.ts'
import { inMemory } from './support.ts'

const sequenceLength = 12

const example = fc
  .array(fc.tuple(fc.nat(999), fc.boolean()), { minLength: 2, maxLength: sequenceLength })
  .map((tokens): Example => {
    const ids = Int32Array.from(tokens, ([id]) => id)
    const targets = Int32Array.from(tokens, ([, learnt], i) => (learnt && i + 1 < ids.length ? ids[i + 1]! : -100))
    return { ids, targets }
  })

const cases = fc.record({
  examples: fc.array(example, { minLength: 1, maxLength: 40 }),
  options: fc.record({
    batchSize: fc.integer({ min: 1, max: 9 }),
    microBatchSize: fc.integer({ min: 1, max: 4 }),
    sequenceLength: fc.constant(sequenceLength),
    packing: fc.boolean(),
    shuffle: fc.boolean(),
    seed: fc.nat(),
    dropLast: fc.constant(false),
  }),
})

const take = <T>(count: number, values: Iterable<T>): T[] => {
  const taken: T[] = []
  for (const value of values) if (taken.push(value) === count) break
  return taken
}

describe('batchStream', () => {
  test('an epoch gives out every token of every example once', () => {
    fc.assert(
      fc.property(cases, ({ examples, options }) => {
        const stream = batchStream(inMemory(examples), options)
        const batches = take(stream.batchesPerEpoch, stream)
        expect(new Set(batches.map(({ epoch }) => epoch))).toEqual(new Set([0]))
        const order = batches.flatMap((batch) => batch.examples)
        expect([...order].sort((a, b) => a - b)).toEqual([...examples.keys()])
        const micros = batches.flatMap(({ microBatches }) => microBatches)
        expect(micros.flatMap(({ ids }) => [...ids])).toEqual(order.flatMap((i) => [...examples[i]!.ids]))
        expect(micros.flatMap(({ targets }) => [...targets])).toEqual(order.flatMap((i) => [...examples[i]!.targets]))
        expect(take(stream.batchesPerEpoch + 1, batchStream(inMemory(examples), options)).at(-1)!.epoch).toBe(1)
      }),
    )
  })

  test('processes divide the micro-batches of the same batches among them', () => {
    fc.assert(
      fc.property(cases, fc.integer({ min: 1, max: 6 }), ({ examples, options }, size) => {
        const streams = Array.from({ length: size }, (_, rank) =>
          take(5, batchStream(inMemory(examples), { ...options, share: { rank, size } })),
        )
        for (const [i, whole] of take(5, batchStream(inMemory(examples), options)).entries()) {
          const parts = streams.map((stream) => stream[i]!)
          const dealt = whole.microBatches.map((_, j) => parts[j % size]!.microBatches[Math.floor(j / size)])
          expect(dealt).toEqual(whole.microBatches)
          expect(parts.reduce((sum, { microBatches }) => sum + microBatches.length, 0)).toBe(dealt.length)
          for (const part of parts) expect({ ...part, microBatches: whole.microBatches }).toEqual(whole)
        }
      }),
    )
  })

  test('bounds, positions, sizes and target counts agree', () => {
    fc.assert(
      fc.property(cases, ({ examples, options }) => {
        for (const batch of take(5, batchStream(inMemory(examples), options))) {
          let targets = 0
          for (const micro of batch.microBatches) {
            const tokens = micro.ids.length
            expect(tokens).toBeLessThanOrEqual(options.microBatchSize * sequenceLength)
            expect([micro.bounds[0], micro.bounds.at(-1)]).toEqual([0, tokens])
            for (let i = 1; i < micro.bounds.length; i++) {
              const [start, end] = [micro.bounds[i - 1]!, micro.bounds[i]!]
              expect([...micro.positions.slice(start, end)]).toEqual([...Array(end - start).keys()])
              // nothing is predicted across examples
              expect(micro.targets[end - 1]).toBe(-100)
            }
            targets += micro.targets.filter((target) => target !== -100).length
          }
          expect(batch.targetCount).toBe(targets)
        }
      }),
    )
  })

  test('a resumed stream goes on as if it had not stopped', () => {
    fc.assert(
      fc.property(cases, fc.nat(12), ({ examples, options }, stop) => {
        const whole = take(stop + 8, batchStream(inMemory(examples), options))
        const first = batchStream(inMemory(examples), options)
        const before = stop === 0 ? [] : take(stop, first)
        const state: BatchState = JSON.parse(JSON.stringify(first.state))
        expect([...before, ...take(8, batchStream(inMemory(examples), options, state))]).toEqual(whole)
      }),
    )
  })

  test('epochs differ in order when shuffled, and not otherwise', () => {
    const examples = Array.from({ length: 50 }, (_, i) => ({
      ids: Int32Array.of(i, i),
      targets: Int32Array.of(i, -100),
    }))
    const options = { batchSize: 50, microBatchSize: 50, sequenceLength, packing: false, seed: 1, dropLast: false }
    const orders = (shuffle: boolean) =>
      take(2, batchStream(inMemory(examples), { ...options, shuffle })).map((batch) => batch.examples)
    const [first, second] = orders(true)
    expect(first).not.toEqual(second)
    expect(orders(false)).toEqual([[...examples.keys()], [...examples.keys()]])
  })

  const short = { ids: Int32Array.of(1, 2), targets: Int32Array.of(2, -100) }
  const options = {
    batchSize: 2,
    microBatchSize: 2,
    sequenceLength: 4,
    packing: false,
    shuffle: false,
    seed: 0,
    dropLast: true,
  }

  test('dropLast leaves out what does not fill a batch', () => {
    const stream = batchStream(inMemory([short, short, short]), options)
    expect(stream.batchesPerEpoch).toBe(1)
    expect(take(3, stream).map(({ epoch, examples }) => [epoch, examples])).toEqual([
      [0, [0, 1]],
      [1, [0, 1]],
      [2, [0, 1]],
    ])
    expect(() => batchStream(inMemory([short]), options)).toThrow(expect.objectContaining({ code: 'E_CONFIG' }))
  })

  test('an example that is too long is refused', () => {
    expect(() => batchStream(inMemory([short]), { ...options, sequenceLength: 1 })).toThrow(
      expect.objectContaining({ code: 'E_DATA' }),
    )
  })
})

test('evaluationBatches gives every example in order', () => {
  fc.assert(
    fc.property(cases, ({ examples, options }) => {
      const micros = [...evaluationBatches(examples, options)]
      expect(micros.every(({ bounds }) => bounds.length - 1 <= options.microBatchSize)).toBe(true)
      expect(micros.flatMap(({ ids }) => [...ids])).toEqual(examples.flatMap(({ ids }) => [...ids]))
      expect(micros.flatMap(({ targets }) => [...targets])).toEqual(examples.flatMap(({ targets }) => [...targets]))
    }),
  )
})
