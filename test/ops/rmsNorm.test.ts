import { describe, expect, test } from 'vitest'
import { rmsNorm, rmsNormBackward } from '../../src/native/rmsNorm.ts'
import { tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { expectWithin, grid, largest, onEveryDevice, random, readGolden, toArray, unitRoundoff } from './support.ts'

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
  test.each(grid({ rows: [1, 7, 129], dim: [1, 64, 4300] } as const))('[$rows, $dim]', ({ rows, dim }) => {
    const x = random(device, [rows, dim])
    const weight = random(device, [dim], 'f32', 2)
    const { y } = rmsNorm(x, weight, 1e-5)
    // Three roundings, and an fp32 sum of `dim` positive terms whose relative error the square root halves.
    const u = (dim / 2 + 4) * unitRoundoff.f32
    expectWithin(y, inDoubles(toArray(x), toArray(weight), 1e-5), (want) => u * Math.abs(want))
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

  test('refuses a weight of another width by name', () => {
    expect(() => rmsNorm(random(device, [2, 8]), random(device, [7]), 1e-5)).toThrow(/rmsNorm: weight does not fit/)
  })
})
