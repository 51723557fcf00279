import { afterEach, describe, expect, test } from 'vitest'
import { rope } from '../../src/native/rope.ts'
import type { DType } from '../../src/tensor/dtype.ts'
import { type Tensor, tensorFrom } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import {
  expectWithin,
  floatsOf,
  generator,
  grid,
  onEveryDevice,
  random,
  readGolden,
  storing,
  toArray,
  unitRoundoff,
} from './support.ts'

const frequencies = (headDim: number): Float32Array =>
  Float32Array.from({ length: headDim / 2 }, (_, j) => 10000 ** ((-2 * j) / headDim))

/** The index of the dimension that turns together with element `at` of a row of heads. */
const partner = (at: number, headDim: number): number =>
  at % headDim < headDim / 2 ? at + headDim / 2 : at - headDim / 2

function inDoubles(x: Float64Array, width: number, positions: Int32Array, inverse: Float32Array): Float64Array {
  const half = inverse.length
  return x.map((value, at) => {
    const angle = positions[Math.floor(at / width)]! * inverse[at % half]!
    const other = x[partner(at, 2 * half)]!
    return value * Math.cos(angle) + (at % (2 * half) < half ? -other : other) * Math.sin(angle)
  })
}

onEveryDevice('rope', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  // Sine or cosine rounded, a product, a sum: three roundings of either term.
  const bound =
    (x: Float64Array, headDim: number, dtype: DType = 'f32') =>
    (want: number, at: number) =>
      3 * unitRoundoff.f32 * (Math.abs(x[at]!) + Math.abs(x[partner(at, headDim)]!)) + storing(dtype) * Math.abs(want)

  describe.each(grid({ dtype: floatsOf(device), rows: [1, 7, 129], heads: [1, 9], headDim: [2, 64, 122] } as const))(
    '$dtype [$rows, $heads and 3 x $headDim]',
    ({ dtype, rows, heads, headDim }) => {
      const next = generator(3)
      // Far positions, where an angle in single precision would be off by a percent.
      const positions = Int32Array.from({ length: rows }, () => Math.floor((next() + 1) * 65536))
      const angles = [tensorFrom(device, positions), tensorFrom(device, frequencies(headDim))] as const
      const queriesAndKeys = () =>
        [heads, 3].map((count, seed) => random(device, [rows, count * headDim], dtype, seed)) as [Tensor, Tensor]

      test('turns by the angle in double precision', () => {
        const both = queriesAndKeys()
        const before = both.map(toArray)
        rope(...both, ...angles)
        for (const [i, x] of both.entries()) {
          const want = inDoubles(before[i]!, x.shape[1]!, positions, frequencies(headDim))
          expectWithin(x, want, bound(before[i]!, headDim, dtype))
        }
      })

      test('inverse turns back', () => {
        const both = queriesAndKeys()
        const before = both.map(toArray)
        rope(...both, ...angles)
        rope(...both, ...angles, { inverse: true })
        for (const [i, x] of both.entries()) {
          const values = before[i]!
          // The first rotation's errors are turned, which mixes both terms once more.
          const stored = (at: number) =>
            2 * storing(dtype) * (Math.abs(values[at]!) + Math.abs(values[partner(at, headDim)]!))
          expectWithin(x, values, (want, at) => 3 * bound(values, headDim, dtype)(want, at) + stored(at))
        }
      })
    },
  )

  test.each([
    { input: 'x', output: 'y', inverse: false },
    { input: 'dy', output: 'dx', inverse: true },
  ])('golden $output', ({ input, output, inverse }) => {
    const golden = readGolden('ops', 'golden.safetensors')
    const { data, shape } = golden(`rope.${input}`)
    const [batch, heads, tokens, headDim] = shape as [number, number, number, number]
    // [batch, heads, tokens, headDim]: every (batch, head) is a sequence of single heads.
    const positions = Int32Array.from({ length: batch * heads * tokens }, (_, i) => i % tokens)
    const x = tensorFrom(device, data, [positions.length, headDim])
    const before = toArray(x)
    const other = random(device, [positions.length, headDim])
    rope(x, other, tensorFrom(device, positions), tensorFrom(device, frequencies(headDim)), { inverse })
    // The golden angle is position times a frequency in double, ours a frequency rounded to f32: angles up to 6.
    const angle = tokens * unitRoundoff.f32
    const extra = (at: number) => angle * (Math.abs(before[at]!) + Math.abs(before[partner(at, headDim)]!))
    expectWithin(x, golden(`rope.${output}`).data, (want, at) => bound(before, headDim)(want, at) + extra(at))
  })

  test('refuses a width that is no multiple of the head', () => {
    const [fits, odd] = [random(device, [2, 32]), random(device, [2, 30])]
    const angles = [tensorFrom(device, Int32Array.of(0, 1)), tensorFrom(device, frequencies(8))] as const
    expect(() => rope(odd, fits, ...angles)).toThrow(/rope: q does not fit/)
    expect(() => rope(fits, odd, ...angles)).toThrow(/rope: k does not fit.*multiple of headDim 8/s)
  })
})
