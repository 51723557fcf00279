import fc from 'fast-check'
import { expect, test } from 'vitest'
import { gemm } from '../../src/native/gemm.ts'
import { loraForward, loraInputBackward, loraOutputBackward } from '../../src/native/loraLinear.ts'
import { dequantizeNf4, nf4Gemm, quantizeNf4 } from '../../src/native/nf4.ts'
import { type Device, Tensor, tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { adding, productInDoubles } from './product.ts'
import {
  expectWithin,
  grid,
  largest,
  onEveryDevice,
  poisoned,
  random,
  readGolden,
  storing,
  toArray,
  unitRoundoff,
} from './support.ts'

/** Philox4x32-10 (Salmon et al. 2011), a second time and in BigInt, to hold the native one against. */
function philox(seed: number, stream: number, index: number): number[] {
  const mask = 0xffffffffn
  let [c0, c1, c2, c3] = [BigInt(index), 0n, BigInt(stream), 0n]
  let [k0, k1] = [BigInt(seed), 0n]
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * c0, 0xcd9e8d57n * c2]
    ;[c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & mask, (p0 >> 32n) ^ c3 ^ k1, p0 & mask]
    k0 = (k0 + 0x9e3779b9n) & mask
    k1 = (k1 + 0xbb67ae85n) & mask
  }
  return [c0, c1, c2, c3].map(Number)
}

const maskOf = (count: number, dropout: number, seed: number, stream: number) =>
  Float32Array.from({ length: count }, (_, i) => {
    const word = philox(seed, stream, Math.floor(i / 4))[i % 4]!
    return (word >>> 8) / 2 ** 24 >= dropout ? 1 / (1 - dropout) : 0
  })

/** The mask that the op uses: with ones for x and an identity for a, u is drop(x). */
function maskOfOp(device: Device, T: number, K: number, dropout: number, seed: number, stream: number): Tensor {
  const identity = Float32Array.from({ length: K * K }, (_, i) => (i % (K + 1) === 0 ? 1 : 0))
  const ones = tensorFrom(device, new Float32Array(T * K).fill(1), [T, K])
  const b = zeros(device, [1, K], 'f32')
  return loraForward(ones, tensorFrom(device, identity, [K, K]), b, zeros(device, [T, 1], 'f32'), {
    scale: 1,
    dropout,
    seed,
    stream,
  })
}

test('philox gives the words of Random123', () => {
  expect(philox(0, 0, 0)).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
})

onEveryDevice('lora', (device) => {
  test.each([
    [1, 5],
    [3, 64],
    [130, 61],
  ])('the mask of [%i, %i] is the one philox gives', (T, K) => {
    const rounding = storing(device.activations)
    expectWithin(maskOfOp(device, T, K, 0.25, 7, 9), maskOf(T * K, 0.25, 7, 9), (want) => rounding * want)
  })

  test('dropout keeps the share it should, whatever the seed', () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(), fc.double({ min: 0.05, max: 0.9, noNaN: true }), (seed, stream, dropout) => {
        const mask = toArray(maskOfOp(device, 64, 64, dropout, seed, stream))
        const kept = mask.filter((m) => m > 0).length
        // Six standard deviations of a binomial count: fewer than one run in 10 million is further off.
        expect(Math.abs(kept - 4096 * (1 - dropout))).toBeLessThan(6 * Math.sqrt(4096 * dropout * (1 - dropout)))
      }),
      { numRuns: 20 },
    )
  })

  const sizes = { T: [1, 7, 130], K: [24, 61, 300], N: [20, 129], r: [4, 8, 33], dropout: [0, 0.25] } as const
  // One dimension is 0, with a rank for each of the GPU's ways.
  const empty = grid({ T: [0, 7], K: [0, 61], N: [0, 20], r: [0, 8, 20, 33], dropout: [0, 0.25] } as const).filter(
    ({ T, K, N, r }) => [T, K, N, r].filter((size) => size === 0).length === 1,
  )
  test('forward and backward, with the same mask', () => {
    for (const { T, K, N, r, dropout } of [...grid(sizes), ...empty]) {
      const options = { scale: 2, dropout, seed: 3, stream: 11 }
      const dtype = device.activations
      const [a, b] = [random(device, [r, K], 'f32', 2), random(device, [N, r], 'f32', 3)]
      const [x, y, dy] = [
        random(device, [T, K], dtype),
        random(device, [T, N], dtype, 4),
        random(device, [T, N], dtype, 5),
      ]
      const mask = dropout ? maskOf(T * K, dropout, 3, 11) : new Float32Array(T * K).fill(1)
      // A product with the mask is one more rounding, which the bounds below have room for.
      const dropped = toArray(x).map((value, i) => value * mask[i]!)

      const before = toArray(y)
      const u = loraForward(x, a, b, y, options)
      const wantU = productInDoubles([T, r, K], { data: dropped }, { data: toArray(a), transposed: true }, { alpha: 2 })
      // x is rounded once more when it is masked
      expectWithin(u, wantU.want, wantU.bound(device, [dtype, 'f32'], dtype, 1))
      const right = { data: toArray(b), transposed: true }
      const wantY = productInDoubles([T, N, r], { data: toArray(u) }, right, { beta: 1, c: before })
      expectWithin(y, wantY.want, wantY.bound(device, [dtype, 'f32'], dtype, 1))

      const [dx, da, db] = [
        random(device, [T, K], dtype, 6),
        random(device, [r, K], 'f32', 7),
        random(device, [N, r], 'f32', 8),
      ]
      const start = [dx, da, db].map(toArray) as [Float64Array, Float64Array, Float64Array]
      const d = poisoned(device, [T, r], dtype)
      loraOutputBackward(dy, b, u, d, db, options.scale)
      loraInputBackward(d, x, a, dx, da, options)

      const left = { data: toArray(dy), transposed: true }
      const wantB = productInDoubles([N, r, T], left, { data: toArray(u) }, { beta: 1, c: start[2] })
      expectWithin(db, wantB.want, wantB.bound(device, [dtype, dtype], 'f32'))

      // d is rounded before it is summed over, so both sums' roundings count, relative to the sums of magnitudes.
      const wantD = productInDoubles([T, r, N], { data: toArray(dy) }, { data: toArray(b) }, { alpha: 2 })
      expectWithin(d, wantD.want, wantD.bound(device, [dtype, 'f32'], dtype))
      const rounding = (terms: number) => adding(device, N + terms + 8) + 4 * storing(dtype)
      const magnitude = (values: Float64Array) => ({ data: values.map(Math.abs) })

      const add = { beta: 1, c: start[1] }
      const wantA = productInDoubles([r, K, T], { data: wantD.want, transposed: true }, { data: dropped }, add)
      const sizeA = productInDoubles([r, K, T], { data: wantD.magnitude, transposed: true }, magnitude(dropped), add)
      expectWithin(da, wantA.want, (_, i) => rounding(T) * sizeA.magnitude[i]!)

      const wantX = productInDoubles([T, K, r], { data: wantD.want }, { data: toArray(a) })
      const sizeX = productInDoubles([T, K, r], { data: wantD.magnitude }, magnitude(toArray(a)))
      const want = wantX.want.map((value, i) => start[0][i]! + mask[i]! * value)
      expectWithin(
        dx,
        want,
        (value, i) =>
          rounding(r) * (Math.abs(start[0][i]!) + mask[i]! * sizeX.magnitude[i]!) + storing(dtype) * Math.abs(value),
      )
    }
  })

  test.each([8, 16, 40])('backward from and to columns of wider matrices, rank %i', (r) => {
    const [T, N] = [130, 300]
    const dtype = device.activations
    const [dy, u, b] = [
      random(device, [T, N], dtype),
      random(device, [T, r], dtype, 2),
      random(device, [N, r], 'f32', 3),
    ]
    const [d, db] = [poisoned(device, [T, r], dtype), zeros(device, [N, r], 'f32')]
    loraOutputBackward(dy, b, u, d, db, 2)

    const [wideU, wideD] = [poisoned(device, [T, 3 * r], dtype), poisoned(device, [T, 3 * r], dtype)]
    const [partOfU, partOfD] = [wideU.columns(r, 2 * r).write(u.read()), wideD.columns(r, 2 * r)]
    const dbOfPart = zeros(device, [N, r], 'f32')
    loraOutputBackward(dy, b, partOfU, partOfD, dbOfPart, 2)
    expect(toArray(partOfD)).toEqual(toArray(d))
    expect(toArray(dbOfPart)).toEqual(toArray(db))
    expect(toArray(wideD).filter(Number.isNaN).length).toBe(2 * r * T)

    const [x, a] = [random(device, [T, 61], dtype, 4), random(device, [r, 61], 'f32', 5)]
    const gradients = (d: Tensor) => {
      const [dx, da] = [zeros(device, [T, 61], dtype), zeros(device, [r, 61], 'f32')]
      loraInputBackward(d, x, a, dx, da, { dropout: 0.25 })
      return [toArray(dx), toArray(da)]
    }
    expect(gradients(partOfD)).toEqual(gradients(d))
  })

  test.each([8, 40])('gradients may begin anywhere in memory, rank %i', (r) => {
    const [T, K, N] = [130, 64, 48]
    const dtype = device.activations
    const [x, dy, u] = [
      random(device, [T, K], dtype),
      random(device, [T, N], dtype, 2),
      random(device, [T, r], dtype, 3),
    ]
    const [a, b] = [random(device, [r, K], 'f32', 4), random(device, [N, r], 'f32', 5)]
    const gradients = (begin: number) => {
      const at = (shape: [number, number]) => zeros(device, [begin + shape[0] * shape[1]], 'f32').slice(begin, shape)
      const [d, da, db] = [poisoned(device, [T, r], dtype), at([r, K]), at([N, r])]
      loraOutputBackward(dy, b, u, d, db, 2)
      loraInputBackward(d, x, a, undefined, da)
      return [toArray(da), toArray(db)]
    }
    expect(gradients(1)).toEqual(gradients(0))
  })

  // 300 x 520 is large enough for the fastest kernels.
  const products = { M: [3, 300], N: [37, 520], K: [72], r: [4, 70], nf4: [false, true] } as const
  test('rides along with a product as if its operands were longer by the rank', () => {
    for (const { M, N, K, r, nf4 } of grid(products)) {
      const dtype = device.activations
      const [left, right] = [random(device, [M, r], dtype, 3), random(device, [N, r], 'f32', 4)]
      const longer = (a: Tensor, b: Float64Array) => {
        const [rows, width] = a.shape as [number, number]
        const values = toArray(a)
        return Float64Array.from({ length: rows * (width + r) }, (_, i) => {
          const [row, column] = [Math.floor(i / (width + r)), i % (width + r)]
          return column < width ? values[row * width + column]! : b[row * r + column - width]!
        })
      }
      const x = random(device, [M, K], dtype)
      const plain = random(device, [N, K], 'f32', 2)
      const w = nf4 ? quantizeNf4(plain) : plain
      const values = w instanceof Tensor ? w : dequantizeNf4(w, 'f32')
      const y = random(device, [M, N], dtype, 5)
      const want = productInDoubles(
        [M, N, K + r],
        { data: longer(x, toArray(left)) },
        { data: longer(values, toArray(right)), transposed: true },
        { beta: 1, c: toArray(y) },
      )
      const options = { beta: 1, lowRank: { left, right } }
      if (w instanceof Tensor) gemm(x, w, y, { transposeB: true, ...options })
      else nf4Gemm(x, w, y, options)
      // Where the parts are added up in y itself, y is rounded twice.
      expectWithin(y, want.want, want.bound(device, [dtype, 'f32'], dtype, 2))
    }
  })

  test.runIf(device.activations === 'f32')('golden', () => {
    const golden = readGolden('ops', 'golden.safetensors')
    const tensor = (name: string) => tensorFrom(device, golden(`lora.${name}`).data, golden(`lora.${name}`).shape)
    const [x, w, a, b, dy] = ['x', 'W', 'A', 'B', 'dy'].map(tensor) as [Tensor, Tensor, Tensor, Tensor, Tensor]
    // The golden mask is not ours: x is masked beforehand, and dx behind the adapter afterwards.
    const mask = Float32Array.from(golden('lora.keep').bytes, (keep) => keep / 0.75)
    const dropped = tensorFrom(
      device,
      golden('lora.x').data.map((value, i) => value * mask[i]!),
      x.shape,
    )

    const y = poisoned(device, dy.shape as number[])
    gemm(x, w, y, { transposeB: true })
    const u = loraForward(dropped, a, b, y, { scale: 2 })
    const [dx, dxAdapter] = [poisoned(device, x.shape as number[]), zeros(device, x.shape, 'f32')]
    const [da, db] = [zeros(device, a.shape, 'f32'), zeros(device, b.shape, 'f32')]
    gemm(dy, w, dx)
    const d = poisoned(device, u.shape as number[])
    loraOutputBackward(dy, b, u, d, db, 2)
    loraInputBackward(d, dropped, a, dxAdapter, da)
    const total = toArray(dx).map((value, i) => value + mask[i]! * toArray(dxAdapter)[i]!)

    // At most 24 + 4 + 20 terms are added one after the other; judged by the largest element, which exceeds their size.
    const close = (got: Tensor | Float64Array, name: string) => {
      const want = golden(`lora.${name}`).data
      expectWithin(got, want, () => 48 * unitRoundoff.f32 * largest(want))
    }
    close(y, 'y')
    close(total, 'dx')
    close(da, 'dA')
    close(db, 'dB')
  })
})
