import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compareCase, compareResults, noiseOf } from '../../bench/lib/compare.mjs'
import { newest } from '../../bench/lib/results.mjs'
import { spreadOf } from '../../bench/lib/timing.mjs'

const milliseconds = fc.double({ min: 1e-3, max: 1e5, noNaN: true })
const timing = fc
  .tuple(milliseconds, fc.double({ min: 0, max: 0.5, noNaN: true }))
  .map(([milliseconds, relative]) => ({ milliseconds, spread: relative * milliseconds }))

type Timing = { milliseconds: number; spread?: number }
const slower = (before: Timing, after: Timing) => compareCase(before, after).some(({ worse }) => worse)

describe('time', () => {
  test('is never slower than itself, and never in both directions', () => {
    fc.assert(fc.property(timing, (a) => !slower(a, a)))
    fc.assert(fc.property(timing, timing, (a, b) => !(slower(a, b) && slower(b, a))))
  })

  test('is slower from the noise of both on, and by no less', () => {
    fc.assert(
      fc.property(timing, fc.double({ min: 0, max: 0.5, noNaN: true }), (before, relative) => {
        const spread = relative * before.milliseconds
        const limit = before.milliseconds + noiseOf(before, { milliseconds: 0, spread })
        expect(slower(before, { milliseconds: 1.001 * limit, spread })).toBe(true)
        expect(slower(before, { milliseconds: 0.999 * limit, spread })).toBe(false)
      }),
    )
  })

  test('is judged alike in every unit', () => {
    fc.assert(
      fc.property(timing, timing, fc.integer({ min: -8, max: 8 }), (before, after, power) => {
        const scaled = (t: Required<Timing>) => ({
          milliseconds: t.milliseconds * 2 ** power,
          spread: t.spread * 2 ** power,
        })
        expect(slower(scaled(before), scaled(after))).toBe(slower(before, after))
      }),
    )
  })

  test('of two runs of the same work is seldom called slower, and a third more is always', () => {
    const share = (deviation: number, factor: number) => {
      const verdicts = Array.from({ length: 500 }, (_, i) => {
        const run = (seed: number, scale: number) => spreadOf(normals(seed, 7).map((x) => scale * (1 + deviation * x)))
        return slower(run(2 * i, 10), run(2 * i + 1, 10 * factor))
      })
      return verdicts.filter(Boolean).length / verdicts.length
    }
    expect(share(0.005, 1)).toBe(0)
    expect(share(0.03, 1)).toBeLessThan(0.02)
    expect(share(0.03, 1.33)).toBeGreaterThan(0.95)
    expect(share(0.005, 1.33)).toBe(1)
  })
})

test('memory is worse by the thousandth part', () => {
  const at = (peakBytes: number) => compareCase({ peakBytes: 1e9 }, { peakBytes })[0]?.worse
  expect([1e9, 1.0009e9, 0.5e9].map(at)).toEqual([false, false, false])
  expect(at(1.0011e9)).toBe(true)
})

describe('of a file', () => {
  const line = { case: 'gemm', m: 1, n: 2, k: 3, orientation: 'nt', gpu: 'H100', milliseconds: 1, spread: 0 }

  test('the newest line of a case on a machine counts', () => {
    const rows = compareResults([{ ...line, milliseconds: 9 }, line, { ...line, gpu: 'H200', milliseconds: 5 }], [line])
    expect(rows).toMatchObject([{ case: 'gemm 1x2x3 nt', what: 'time', before: 1, after: 1, worse: false }])
  })

  test('other shapes and machines are not compared', () => {
    expect(compareResults([line], [{ ...line, m: 4 }])).toEqual([])
    expect(compareResults([line], [{ ...line, gpu: 'H200' }])).toEqual([])
    expect(newest([line, { ...line, orientation: 'nn' }]).size).toBe(2)
  })
})

/** Normally distributed numbers by Box and Muller, from a linear congruential generator. */
function normals(seed: number, count: number): number[] {
  let state = (Math.imul(seed + 1, 2654435761) >>> 0) + 1
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state + 1) / 2 ** 32
  }
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()))
}
