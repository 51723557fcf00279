import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { permutation, philox4x32, randomIntegers, uniform } from '../../src/data/random.ts'

describe('random', () => {
  // Random123's known answers
  test.each([
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [[0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], '408f276d 41c83b0e a20bc7c6 6d5451fd'],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], 'd16cfe09 94fdcceb 5001e420 24126ea1'],
  ] as const)('philox4x32-10 of %j under %j', (counter, key, words) => {
    const hex = philox4x32([...counter], [...key]).map((word) => word.toString(16).padStart(8, '0'))
    expect(hex.join(' ')).toBe(words)
  })

  test('a permutation holds every index once, and depends on seed and stream alone', () => {
    fc.assert(
      fc.property(fc.nat(300), fc.maxSafeNat(), fc.nat(100), (length, seed, stream) => {
        const order = permutation(length, seed, stream)
        expect([...order].sort((a, b) => a - b)).toEqual([...Array(length).keys()])
        expect(permutation(length, seed, stream)).toEqual(order)
      }),
    )
    expect(permutation(100, 1, 0)).not.toEqual(permutation(100, 1, 1))
    expect(permutation(100, 1, 0)).not.toEqual(permutation(100, 2, 0))
    expect(permutation(100, 1, 0)).not.toEqual(permutation(100, 1 + 2 ** 32, 0))
  })

  test('integers and uniform numbers are spread evenly', () => {
    const counts = new Array(10).fill(0)
    for (const value of randomIntegers(100_000, 10, 7)) counts[value]++
    // 10 000 expected, standard deviation 95
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(5 * 95)
    const values = uniform(100_000, 7)
    expect(values.every((value) => value >= 0 && value < 1)).toBe(true)
    // standard deviation of the mean: 1 / sqrt(12 * 100 000) = 0.0009
    expect(Math.abs(values.reduce((sum, value) => sum + value) / values.length - 0.5)).toBeLessThan(5 * 0.0009)
  })
})
