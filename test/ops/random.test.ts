import { afterEach, describe, expect, test } from 'vitest'
import { fillNormal, fillUniform } from '../../src/native/random.ts'
import { guarded } from './guarded.ts'
import { expectWithin, onEveryDevice, toArray, unitRoundoff } from './support.ts'

const low32 = 0xffffffffn

/** Philox4x32-10 (Salmon et al. 2011) from its definition: counter and key as 64-bit numbers, low word first. */
function philox(key: bigint, counterHigh: bigint, counterLow: bigint): bigint[] {
  let [c0, c1, c2, c3] = [counterLow & low32, counterLow >> 32n, counterHigh & low32, counterHigh >> 32n]
  let [k0, k1] = [key & low32, key >> 32n]
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * c0, 0xcd9e8d57n * c2]
    ;[c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & low32, (p0 >> 32n) ^ c3 ^ k1, p0 & low32]
    ;[k0, k1] = [(k0 + 0x9e3779b9n) & low32, (k1 + 0xbb67ae85n) & low32]
  }
  return [c0, c1, c2, c3]
}

test("the reference gives the vectors of Random123's kat_vectors", () => {
  const hex = (words: bigint[]) => words.map((word) => word.toString(16).padStart(8, '0')).join(' ')
  expect(hex(philox(0n, 0n, 0n))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8')
  const ones = 2n ** 64n - 1n
  expect(hex(philox(ones, ones, ones))).toBe('408f276d 41c83b0e a20bc7c6 6d5451fd')
  expect(hex(philox(0x299f31d0a4093822n, 0x0370734413198a2en, 0x85a308d3243f6a88n))).toBe(
    'd16cfe09 94fdcceb 5001e420 24126ea1',
  )
})

onEveryDevice('random', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  const seeds = [
    { seed: 0, stream: 0 },
    { seed: 42, stream: 7 },
    { seed: 2 ** 40 + 5, stream: 2 ** 35 + 1 },
    { seed: -1, stream: 3 },
  ]
  const words = (count: number, { seed, stream }: { seed: number; stream: number }): number[] =>
    Array.from({ length: Math.ceil(count / 4) }, (_, i) =>
      philox(BigInt.asUintN(64, BigInt(seed)), BigInt.asUintN(64, BigInt(stream)), BigInt(i)),
    )
      .flat()
      .slice(0, count)
      .map(Number)

  describe.each(seeds)('seed $seed, stream $stream', (random) => {
    test.each([1, 7, 129, 4300])('%i uniform numbers are the upper 24 bits of the words', (count) => {
      const x = device.empty([count], 'f32')
      fillUniform(x, 0, 1, random)
      expect(x.read()).toEqual(Float32Array.from(words(count, random), (word) => (word >>> 8) / 2 ** 24))
    })

    test('normal numbers are Box and Muller of pairs of uniform ones', () => {
      const x = device.empty([43, 7], 'f32')
      fillNormal(x, 0.5, 2, random)
      const uniform = words(302, random).map((word) => (word >>> 8) / 2 ** 24)
      const want = Float64Array.from({ length: 301 }, (_, i) => {
        const pair = i - (i % 2)
        const radius = Math.sqrt(-2 * Math.log(1 - uniform[pair]!))
        const angle = 2 * Math.PI * uniform[pair + 1]!
        return 0.5 + 2 * radius * (i % 2 ? Math.sin(angle) : Math.cos(angle))
      })
      // Computed in double and rounded once; near a zero of the sine the angle's own rounding remains.
      expectWithin(x, want, (value) => unitRoundoff.f32 * Math.abs(value) + 2 ** -48)
    })
  })

  test('uniform numbers stay below the upper end', () => {
    const x = device.empty([200000], 'f32')
    // Here one in three sums rounds up to the upper end.
    const [low, high] = [1, 1 + 2 ** -23]
    fillUniform(x, low, high, { seed: 1, stream: 1 })
    expect(toArray(x).every((value) => value === low)).toBe(true)
  })

  test('moments are those of the distributions', () => {
    const count = 200000
    const x = device.empty([count], 'f32')
    const moments = (): { mean: number; variance: number } => {
      const values = toArray(x)
      const mean = values.reduce((sum, value) => sum + value, 0) / count
      return { mean, variance: values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / count }
    }
    // Five standard errors: of a mean sigma / sqrt(n), of a variance less than 1.5 sigma^2 / sqrt(n).
    const within = (got: number, want: number, error: number) =>
      expect(Math.abs(got - want)).toBeLessThan((5 * error) / Math.sqrt(count))
    fillUniform(x, -3, 1, { seed: 5, stream: 6 })
    within(moments().mean, -1, 4 / Math.sqrt(12))
    within(moments().variance, 16 / 12, (1.5 * 16) / 12)
    fillNormal(x, 2, 0.5, { seed: 5, stream: 7 })
    within(moments().mean, 2, 0.5)
    within(moments().variance, 0.25, 1.5 * 0.25)
  })
})
