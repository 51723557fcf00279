import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { keepZeros } from '../../src/native/optimizer.ts'
import { cutLeast, inverseFactor, sparseGpt } from '../../src/native/sparse.ts'
import { cpu } from '../../src/tensor/device.ts'
import { type Tensor, tensorFrom } from '../../src/tensor/tensor.ts'
import { expectWithin, largest, onEveryDevice, random, readGolden, toArray, unitRoundoff } from './support.ts'

const golden = readGolden('sparse', 'golden.safetensors')
const [rows, columns] = golden('W').shape as [number, number]
/** An input that is always 0: what is cut there is a tie of zeros. */
const dead = 77

const tensor = (name: string) => tensorFrom(cpu, Float32Array.from(golden(name).data), golden(name).shape)
const wandaScale = () => tensorFrom(cpu, golden('wanda.scaler').data.map(Math.sqrt))
const isKept = (w: Tensor) => Array.from(toArray(w), (value) => Number(value !== 0))
const withoutDead = <T>(values: ArrayLike<T>) => Array.from(values).filter((_, i) => i % columns !== dead)
const sum = (values: ArrayLike<number>) => Array.from(values).reduce((total, value) => total + value, 0)

describe('cutLeast', () => {
  test.each([
    ['magnitude 2:4', 'magnitude_2_4', 2, 4, false],
    ['magnitude 4:8', 'magnitude_4_8', 4, 8, false],
    ['magnitude 50 % of the whole matrix', 'magnitude_50', (rows * columns) / 2 + 1, rows * columns, false],
    ['Wanda 2:4', 'wanda_2_4', 2, 4, true],
    ['Wanda 4:8', 'wanda_4_8', 4, 8, true],
    ['Wanda 50 % of each row', 'wanda_50', columns / 2, columns, true],
  ] as const)('%s is the mask of the reference', (_name, mask, n, m, withScale) => {
    const w = tensor('W')
    cutLeast(m > columns ? w.slice(0, [1, m]) : w, n, m, withScale ? wandaScale() : undefined)
    const keep = golden(`${mask}.keep`).bytes
    const compared = withScale ? withoutDead : Array.from
    expect(compared(isKept(w))).toEqual(compared(keep))
    const original = golden('W').data
    expect(toArray(w)).toEqual(Float64Array.from(original, (value, i) => (toArray(w)[i] === 0 ? 0 : value)))
  })

  test('cuts exactly n of m, the least, of equal ones the former', () => {
    const cases = fc
      .record({ m: fc.constantFrom(1, 4, 8, 32, 33, 70), runs: fc.integer({ min: 1, max: 4 }) })
      .chain(({ m, runs }) =>
        fc.record({
          m: fc.constant(m),
          n: fc.integer({ min: 0, max: m }),
          values: fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 2 * m * runs, maxLength: 2 * m * runs }),
        }),
      )
    fc.assert(
      fc.property(cases, ({ m, n, values }) => {
        // 4 keeps apart what was 0 and what was cut
        const w = tensorFrom(
          cpu,
          Float32Array.from(values, (value) => value + 4),
          [2, values.length / 2],
        )
        cutLeast(w, n, m)
        const want = values.map((value, i) => {
          const start = i - (i % m)
          const before = (j: number) => values[j]! < value || (values[j] === value && j < i)
          const rank = Array.from({ length: m }, (_, j) => start + j).filter(before).length
          return rank < n ? 0 : value + 4
        })
        expect(Array.from(toArray(w))).toEqual(want)
      }),
    )
  })
})

describe('SparseGPT', () => {
  test.each([
    ['50', 128, { ratio: 0.5 }],
    ['50_block32', 32, { ratio: 0.5 }],
    ['2_4', 128, { n: 2, m: 4 }],
    ['4_8', 128, { n: 4, m: 8 }],
    // Groups choose by the weights as they are when their turn comes, whatever the blocks are.
    ['4_8', 16, { n: 4, m: 8 }],
  ] as const)('%s, in blocks of %i, gives the mask and the weights of the reference', (name, block, cut) => {
    const [w, h] = [tensor('W'), tensor('sparsegpt.H')]
    sparseGpt(w, h, inverseFactor(h, 0.01)!, cut, block)
    const keep = golden(`sparsegpt_${name}.keep`).bytes
    expect(withoutDead(isKept(w))).toEqual(withoutDead(keep))
    const want = golden(`sparsegpt_${name}.W`).data
    const bound = 1e-4 * largest(want)
    expectWithin(w, want, () => bound)
    expect(sum(Array.from(isKept(w)).filter((_, i) => i % columns === dead))).toBe(0)
  })

  test.each([1, 63, 65, 130, 193])('the factor of a matrix of size %i', (n) => {
    const x = toArray(random(cpu, [2 * n, n]))
    const damping = 0.01
    const h = Float32Array.from({ length: n * n }, (_, at) => {
      const [i, j] = [Math.floor(at / n), at % n]
      return sum(Array.from({ length: 2 * n }, (_, k) => x[k * n + i]! * x[k * n + j]!))
    })
    const mean = sum(Array.from({ length: n }, (_, i) => h[i * (n + 1)]!)) / n
    const u = toArray(inverseFactor(tensorFrom(cpu, h, [n, n]), damping)!)
    // U^-1 U^-T = H + damping * mean * I means U (H + damping * mean * I) U^T = I
    const damped = h.map((value, at) => value + (at % (n + 1) === 0 ? damping * mean : 0))
    const times = (a: ArrayLike<number>, b: (k: number, j: number) => number) =>
      Float64Array.from({ length: n * n }, (_, at) => {
        let total = 0
        for (let k = 0; k < n; k++) total += a[Math.floor(at / n) * n + k]! * b(k, at % n)
        return total
      })
    const identity = times(
      times(u, (k, j) => damped[k * n + j]!),
      (k, j) => u[j * n + k]!,
    )
    // Each product sums n terms; the smallest eigenvalue is at least damping * mean, so U grows by no more than its root.
    const bound = 16 * n * unitRoundoff.f32 * (1 / damping)
    expectWithin(
      identity,
      Float64Array.from(identity, (_, at) => Number(at % (n + 1) === 0)),
      () => bound,
    )
    for (let at = 0; at < n * n; at++) if (at % n < Math.floor(at / n)) expect(u[at]).toBe(0)
  })

  test('a matrix that damping does not make positive definite has no factor', () => {
    const h = tensorFrom(cpu, Float32Array.of(1, 2, 2, 1), [2, 2])
    expect(inverseFactor(h, 0.01)).toBeUndefined()
    expect(inverseFactor(h, 2)).toBeDefined()
    expect(inverseFactor(tensorFrom(cpu, Float32Array.of(Number.NaN), [1, 1]), 1)).toBeUndefined()
  })

  test.each([{ ratio: 0.3 }, { n: 2, m: 4 }])('changes the output less than the same mask alone: %o', (cut) => {
    const [w, h] = [tensor('W'), tensor('sparsegpt.H')]
    sparseGpt(w, h, inverseFactor(h, 0.01)!, cut)
    const inputs = golden('X').data
    const original = golden('W').data
    const errorOf = (weights: ArrayLike<number>) => {
      let total = 0
      for (let t = 0; t < inputs.length / columns; t += 7)
        for (let r = 0; r < rows; r++) {
          let difference = 0
          for (let j = 0; j < columns; j++)
            difference += inputs[t * columns + j]! * (weights[r * columns + j]! - original[r * columns + j]!)
          total += difference ** 2
        }
      return total
    }
    const pruned = toArray(w)
    expect(errorOf(pruned)).toBeLessThan(0.8 * errorOf(original.map((value, i) => (pruned[i] === 0 ? 0 : value))))
  })
})

describe('refuses', () => {
  const [w, h] = [cpu.empty([2, 64], 'f32'), cpu.empty([64, 64], 'f32')]
  test.each([
    ['groups of none', () => cutLeast(w, 1, 0)],
    ['more than a group has', () => cutLeast(w, 5, 4)],
    ['groups that rows do not divide into', () => cutLeast(w, 1, 3)],
    ['groups wider than SparseGPT looks at', () => sparseGpt(w, h, h, { n: 32, m: 64 })],
    ['a share that leaves nothing', () => sparseGpt(w, h, h, { ratio: 1 })],
    ['a block that ends within a group', () => sparseGpt(w, h, h, { n: 2, m: 4 }, 6)],
  ])('%s', (_name, cut) => expect(cut).toThrow(/E_OP.*cannot cut so/))
})

onEveryDevice('keepZeros', (device) => {
  test('zeroes the gradient of what is 0', () => {
    const parameters = tensorFrom(device, Float32Array.of(0, 1, -0, 3, 1e-40, 0), [2, 3])
    const grads = tensorFrom(device, Float32Array.of(1, 2, 3, 4, 5, Number.NaN), [2, 3])
    keepZeros(parameters, grads)
    expect(Array.from(toArray(grads))).toEqual([0, 2, 0, 4, 5, 0])
  })
})
