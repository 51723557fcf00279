import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { gatherColumns, gatherRows, scatterColumns, scatterRows } from '../../src/native/gather.ts'
import { bytesPerElement, dtypes } from '../../src/tensor/dtype.ts'
import { type Tensor, tensorFrom } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import { onEveryDevice, random } from './support.ts'

const sides = {
  rows: { gather: gatherRows, scatter: scatterRows, sourceOf: (i: number, j: number, kept: number[]) => [kept[i]!, j] },
  columns: {
    gather: gatherColumns,
    scatter: scatterColumns,
    sourceOf: (i: number, j: number, kept: number[]) => [i, kept[j]!],
  },
} as const

/** A matrix of any dtype, distinct indices into its rows or columns in any order, and random bytes as its values. */
const cases = (side: keyof typeof sides) =>
  fc
    .record({
      dtype: fc.constantFrom(...dtypes),
      shape: fc.tuple(fc.integer({ min: 1, max: 130 }), fc.integer({ min: 1, max: 130 })),
      seed: fc.integer({ min: 1 }),
    })
    .chain((c) => {
      const size = c.shape[side === 'rows' ? 0 : 1]
      const kept = fc.uniqueArray(fc.nat(size - 1), { maxLength: size })
      return kept.map((indices) => ({ ...c, kept: indices }))
    })

onEveryDevice('gather and scatter', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  /** Bytes of random bits: 16-bit halves of random floats. */
  const matrix = (dtype: Tensor['dtype'], [rows, columns]: readonly [number, number], seed: number): Tensor => {
    const bytes = rows * columns * bytesPerElement[dtype]
    const floats = random(device, [Math.ceil(bytes / 4)], 'f32', seed).read()
    return device.empty([rows, columns], dtype).write(new Uint8Array(floats.buffer, 0, bytes))
  }

  describe.each(['rows', 'columns'] as const)('%s', (side) => {
    const { gather, scatter, sourceOf } = sides[side]

    test('gather takes what the indices name, in their order', () => {
      fc.assert(
        fc.property(cases(side), ({ dtype, shape, seed, kept }) => {
          const x = matrix(dtype, shape, seed)
          const y = gather(x, tensorFrom(device, Int32Array.from(kept)))
          const [from, to] = [x.read(), y.read()]
          const columns = y.shape[1]!
          to.forEach((value, at) => {
            const [i, j] = sourceOf(Math.floor(at / columns), at % columns, kept) as [number, number]
            expect(value).toEqual(from[i * shape[1] + j])
          })
        }),
        { numRuns: 30 },
      )
    })

    test('scatter writes what gather takes, and nothing else', () => {
      fc.assert(
        fc.property(cases(side), ({ dtype, shape, seed, kept }) => {
          const y = matrix(dtype, shape, seed)
          const index = tensorFrom(device, Int32Array.from(kept))
          const size = shape[side === 'rows' ? 0 : 1]
          const others = Array.from({ length: size }, (_, i) => i).filter((i) => !kept.includes(i))
          const otherIndex = tensorFrom(device, Int32Array.from(others))
          const x = matrix(dtype, side === 'rows' ? [kept.length, shape[1]] : [shape[0], kept.length], seed + 1)
          const untouched = gather(y, otherIndex).read()
          scatter(x, index, y)
          expect(gather(y, index).read()).toEqual(x.read())
          expect(gather(y, otherIndex).read()).toEqual(untouched)
        }),
        { numRuns: 30 },
      )
    })
  })

  test('scatter refuses values of another dtype by name', () => {
    const index = tensorFrom(device, Int32Array.of(0, 1))
    const x = random(device, [2, 3], 'bf16')
    expect(() => scatterRows(x, index, random(device, [4, 3]))).toThrow(/scatterRows: x does not fit/)
  })
})
