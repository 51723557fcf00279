import { expect, test } from 'vitest'
import { dequantizeNf4, nf4Gemm, quantizeNf4 } from '../../src/native/nf4.ts'
import { fillNormal } from '../../src/native/random.ts'
import type { Tensor } from '../../src/tensor/tensor.ts'
import { columnsOf, large, part, rowsOf, sample } from './largeProducts.ts'
import { productInDoubles } from './product.ts'
import { expectWithin, floatTensor, grid, onEveryDevice, poisoned, random, toArray } from './support.ts'

/** Of weights that are dequantised in slices. */
const sliced = [
  [300, 3000, 30_000],
  [300, 30_000, 3000],
] as const

onEveryDevice('nf4Gemm', (device) => {
  const run = (x: Tensor, w: Tensor, transposed: boolean, doubleQuantize: boolean) => {
    const weight = quantizeNf4(w, { doubleQuantize })
    const [M, K] = x.shape as [number, number]
    const N = w.shape[transposed ? 1 : 0]!
    const right = { data: toArray(dequantizeNf4(weight, 'f32')), transposed: !transposed }

    const y = poisoned(device, [M, N], device.activations)
    nf4Gemm(x, weight, y, { transposed })
    const plain = productInDoubles([M, N, K], { data: toArray(x) }, right)
    // The weight is f32 where it leaves its code and absmax.
    expectWithin(y, plain.want, plain.bound(device, [x.dtype, 'f32'], y.dtype))

    const before = toArray(y)
    nf4Gemm(x, weight, y, { transposed, beta: 1 })
    const twice = productInDoubles([M, N, K], { data: toArray(x) }, right, { beta: 1, c: before })
    expectWithin(y, twice.want, twice.bound(device, [x.dtype, 'f32'], y.dtype))
  }

  // Of these row lengths only 64 and 1344 are whole blocks; 61 lets rows begin in the low nibble of a byte.
  const shapes = { rows: [1, 33, 130], columns: [1, 61, 64, 1344] } as const
  test.each(grid({ transposed: [false, true], doubleQuantize: [false, true] } as const))('%o', (c) => {
    for (const { rows, columns, M } of [...grid({ ...shapes, M: [1, 7, 129] }), { rows: 20, columns: 4300, M: 2 }]) {
      const x = random(device, [M, c.transposed ? rows : columns], device.activations)
      run(x, random(device, [rows, columns], 'bf16', 2), c.transposed, c.doubleQuantize)
    }
  })

  test.runIf(device.kind === 'cuda').each(grid({ transposed: [false, true], size: [...large, ...sliced] }))(
    '%o',
    ({ transposed, size: [M, N, K] }) => {
      const normal = device.empty(transposed ? [K, N] : [N, K], 'f32')
      fillNormal(normal, 0, 1, { seed: 2, stream: 0 })
      const weight = quantizeNf4(normal)
      const w = dequantizeNf4(weight, 'f32')
      const [x, y] = [random(device, [M, K], device.activations), poisoned(device, [M, N], device.activations)]
      const right = transposed ? [4, N] : [N, 4]
      const lowRank = {
        left: floatTensor(device, new Float32Array(4 * M).fill(8), [M, 4], device.activations),
        right: random(device, right, device.activations, 4),
      }
      nf4Gemm(x, weight, y, { transposed, lowRank })

      const [rows, columns] = [sample(M), sample(N)]
      const of = (tensor: Tensor) => ({
        data: transposed ? columnsOf(tensor, columns) : rowsOf(tensor, columns),
        transposed: !transposed,
      })
      const low = productInDoubles(
        [rows.length, columns.length, 4],
        { data: rowsOf(lowRank.left, rows) },
        of(lowRank.right),
      )
      const { want, bound } = productInDoubles([rows.length, columns.length, K], { data: rowsOf(x, rows) }, of(w), {
        beta: 1,
        c: low.want,
      })
      expectWithin(part(y, rows, columns), want, bound(device, [x.dtype, 'f32'], y.dtype))
    },
  )

  // Of few rows, of some, and of as many as the largest tiles take.
  test.each(grid({ transposed: [false, true], M: [0, 1, 12, 20, 700] }))(
    'a sum over nothing is beta * y: %o',
    ({ transposed, M }) => {
      const N = 1000
      const weight = quantizeNf4(device.empty(transposed ? [0, N] : [N, 0], 'bf16'), { doubleQuantize: false })
      const y = random(device, [M, N], device.activations)
      const before = toArray(y)
      for (const beta of [1, 0]) {
        nf4Gemm(device.empty([M, 0], device.activations), weight, y, { transposed, beta })
        expectWithin(y, beta === 1 ? before : new Float64Array(M * N), () => 0)
      }
    },
  )

  test('refuses parts that do not fit by name', () => {
    const weight = quantizeNf4(random(device, [4, 64]))
    const [x, y] = [random(device, [2, 64]), random(device, [2, 4])]
    expect(() => nf4Gemm(x, { ...weight, shape: [4, 65] }, y)).toThrow(/nf4Gemm: x does not fit/)
    expect(() => nf4Gemm(x, { ...weight, packed: x }, y)).toThrow(/nf4Gemm: packed does not fit/)
    expect(() => nf4Gemm(x, { ...weight, absmax: y }, y)).toThrow(/nf4Gemm: absmax does not fit/)
    const { nestedOffset: _, ...half } = weight
    expect(() => nf4Gemm(x, half, y)).toThrow(/half of a double quantisation/)
  })
})
