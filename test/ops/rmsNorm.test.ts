import { describe, expect, test } from 'vitest'
import { rmsNorm, rmsNormBackward } from '../../src/native/rmsNorm.ts'
import { type Tensor, tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import {
  expectWithin,
  floatsOf,
  grid,
  largest,
  onEveryDevice,
  random,
  readGolden,
  storing,
  toArray,
  unitRoundoff,
} from './support.ts'

function inDoubles(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  const dim = weight.length
  const rstd = Array.from({ length: x.length / dim }, (_, row) => {
    const sum = x.subarray(row * dim, (row + 1) * dim).reduce((total, v) => total + v * v, 0)
    return 1 / Math.sqrt(sum / dim + eps)
  })
  return x.map((value, i) => value * rstd[Math.floor(i / dim)]! * weight[i % dim]!)
}

onEveryDevice('rmsNorm', (device) => {
  // 4300 is LoRAM's pruned width of a 70B model: not a multiple of any tile
  const cases = [
    ...grid({ dtype: floatsOf(device), rows: [1, 7, 129], groups: [1, 3], dim: [1, 64, 4300] } as const),
    { dtype: 'f32', rows: 2, groups: 65536, dim: 1 } as const, // more than the y of a grid holds
  ]
  test.each(cases)('$dtype [$rows, $groups * $dim]', ({ dtype, rows, groups, dim }) => {
    const x = random(device, [rows, groups * dim], dtype)
    const weight = random(device, [dim], 'f32', 2)
    const copy = device.empty(x.shape, dtype)
    const { y } = rmsNorm(x, weight, 1e-5, copy)
    expect(y.dtype).toBe(dtype)
    expectWithin(copy, toArray(x), () => 0)
    expectWithin(rmsNorm(x, weight, 1e-5).y, toArray(y), () => 0)
    // Three roundings, and an fp32 sum of `dim` positive terms whose relative error the square root halves.
    const u = (dim / 2 + 4) * unitRoundoff.f32 + storing(dtype)
    expectWithin(y, inDoubles(toArray(x), toArray(weight), 1e-5), (want) => u * Math.abs(want))
  })

  test.each(cases)('backward of $dtype [$rows, $groups * $dim]', ({ dtype, rows, groups, dim }) => {
    const [x, dy, dx] = [1, 3, 4].map((seed) => random(device, [rows, groups * dim], dtype, seed)) as [
      Tensor,
      Tensor,
      Tensor,
    ]
    const [weight, dweight] = [random(device, [dim], 'f32', 2), random(device, [dim], 'f32', 5)]
    const before = { dx: toArray(dx), dweight: toArray(dweight) }
    const { rstd } = rmsNorm(x, weight, 1e-5)
    rmsNormBackward(dy, x, weight, rstd, dx, dweight)

    const [xs, ds, w, r] = [x, dy, weight, rstd].map(toArray) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ]
    const rowOf = (i: number) => Math.floor(i / dim)
    const n = xs.map((value, i) => value * r[rowOf(i)]!)
    const g = ds.map((value, i) => value * w[i % dim]!)
    const meanOf = (row: number, term: (i: number) => number) =>
      Array.from({ length: dim }, (_, j) => term(row * dim + j)).reduce((sum, value) => sum + value, 0) / dim
    const means = Array.from(r, (_, row) => meanOf(row, (i) => g[i]! * n[i]!))
    const sizes = Array.from(r, (_, row) => meanOf(row, (i) => Math.abs(g[i]! * n[i]!)))
    const wantX = g.map((value, i) => before.dx[i]! + r[rowOf(i)]! * (value - n[i]! * means[rowOf(i)]!))
    const size = g.map((value, i) => Math.abs(value) + Math.abs(n[i]!) * sizes[rowOf(i)]!)
    // A sum of `dim` terms of mixed signs, and eight roundings around it, judged by the sums of magnitudes.
    const bound = (i: number) => (dim + 8) * unitRoundoff.f32 * (Math.abs(before.dx[i]!) + r[rowOf(i)]! * size[i]!)
    expectWithin(dx, wantX, (want, i) => bound(i) + storing(dtype) * Math.abs(want))

    const wantWeight = before.dweight.map((value, j) =>
      r.reduce((sum, _, row) => sum + ds[row * dim + j]! * n[row * dim + j]!, value),
    )
    const sizeWeight = before.dweight.map((value, j) =>
      r.reduce((sum, _, row) => sum + Math.abs(ds[row * dim + j]! * n[row * dim + j]!), Math.abs(value)),
    )
    expectWithin(dweight, wantWeight, (_, j) => (rows * groups + 4) * unitRoundoff.f32 * sizeWeight[j]!)
  })

  describe('golden', () => {
    const golden = readGolden('ops', 'golden.safetensors')
    const tensor = (name: string) => tensorFrom(device, golden(`rmsnorm.${name}`).data, golden(`rmsnorm.${name}`).shape)
    // Sums of mixed signs: judged by the largest element, with a rounding for each of the `dim` terms.
    const bound = (want: Float32Array, dim: number) => () => dim * unitRoundoff.f32 * largest(want)

    test('forward', () => {
      const { y, rstd } = rmsNorm(tensor('x'), tensor('weight'), 1e-5)
      expectWithin(y, golden('rmsnorm.y').data, bound(golden('rmsnorm.y').data, y.shape[1]!))
      expectWithin(rstd, golden('rmsnorm.rstd').data, (want) => 8 * unitRoundoff.f32 * want)
    })

    test('backward adds to dx and dweight', () => {
      const [dy, x, weight] = [tensor('dy'), tensor('x'), tensor('weight')]
      const { rstd } = rmsNorm(x, weight, 1e-5)
      const [dx, dweight] = [zeros(device, x.shape, 'f32'), zeros(device, weight.shape, 'f32')]
      rmsNormBackward(dy, x, weight, rstd, dx, dweight)
      expectWithin(dx, golden('rmsnorm.dx').data, bound(golden('rmsnorm.dx').data, x.shape[1]!))
      expectWithin(dweight, golden('rmsnorm.dweight').data, bound(golden('rmsnorm.dweight').data, x.shape[0]!))
      const once = toArray(dx)
      rmsNormBackward(dy, x, weight, rstd, dx)
      expectWithin(
        dx,
        once.map((v) => 2 * v),
        bound(golden('rmsnorm.dx').data, x.shape[1]!),
      )
    })
  })

  test('refuses a weight whose length does not divide a row, by name', () => {
    expect(() => rmsNorm(random(device, [2, 8]), random(device, [7]), 1e-5)).toThrow(/rmsNorm: weight does not fit/)
  })

  test('refuses an rstd of other groups, by name', () => {
    const [x, weight] = [random(device, [2, 8]), random(device, [4])]
    const { rstd } = rmsNorm(x, random(device, [8]), 1e-5)
    expect(() => rmsNormBackward(x, x, weight, rstd, x)).toThrow(/rmsNormBackward: rstd does not fit/)
  })
})
