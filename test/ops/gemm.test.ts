import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { gemm } from '../../src/native/gemm.ts'
import { dequantizeNf4, nf4Gemm, quantizeNf4 } from '../../src/native/nf4.ts'
import type { Tensor } from '../../src/tensor/tensor.ts'
import { productInDoubles } from './product.ts'
import { expectWithin, floatsOf, floatTensor, grid, onEveryDevice, poisoned, random, toArray } from './support.ts'

// One row and eight rows are decoding, 129 is a batch; no size but 64 is a multiple of any tile.
const sizes = { M: [1, 7, 8, 9, 129], N: [1, 61], K: [1, 64, 700] } as const
const turned = { transposeA: [false, true], transposeB: [false, true] } as const

// What Hopper's kernels take, whole and with the depth in parts of 2, 4 and 8; of the results a sample is compared.
const large = [
  [700, 1000, 300],
  [1300, 260, 1100],
  [300, 1100, 2302],
  [1000, 256, 4300],
  [260, 520, 4301],
] as const
const sample = (count: number) => Array.from({ length: 12 }, (_, i) => Math.floor((i * (count - 1)) / 11))

/** Elements of a matrix, row by row. */
function part(matrix: Tensor, rows: number[], columns: number[]): Float64Array {
  const values = toArray(matrix)
  return Float64Array.from(rows.flatMap((row) => columns.map((column) => values[row * matrix.shape[1]! + column]!)))
}
const all = (count: number) => Array.from({ length: count }, (_, i) => i)
const rowsOf = (matrix: Tensor, rows: number[]) => part(matrix, rows, all(matrix.shape[1]!))
const columnsOf = (matrix: Tensor, columns: number[]) => part(matrix, all(matrix.shape[0]!), columns)

onEveryDevice('gemm', (device) => {
  const dtypes = { left: floatsOf(device), dtype: ['f32', 'bf16'], result: floatsOf(device) } as const
  test.each(grid({ ...turned, ...dtypes }))('%o', ({ transposeA, transposeB, left: leftType, dtype, result }) => {
    for (const { M, N, K } of [...grid(sizes), { M: 3, N: 5, K: 4300 }, { M: 40, N: 200, K: 1300 }]) {
      const a = random(device, transposeA ? [K, M] : [M, K], leftType)
      const b = random(device, transposeB ? [N, K] : [K, N], dtype, 2)
      const left = { data: toArray(a), transposed: transposeA }
      const right = { data: toArray(b), transposed: transposeB }

      const c = poisoned(device, [M, N], result)
      gemm(a, b, c, { transposeA, transposeB })
      const plain = productInDoubles([M, N, K], left, right)
      expectWithin(c, plain.want, plain.bound(device, [leftType, dtype], result))

      const sum = random(device, [M, N], result, 3)
      const scaling = { alpha: 0.5, beta: -0.75, c: toArray(sum) }
      gemm(a, b, sum, { transposeA, transposeB, ...scaling })
      const scaled = productInDoubles([M, N, K], left, right, scaling)
      expectWithin(sum, scaled.want, scaled.bound(device, [leftType, dtype], result))
    }
  })

  test.runIf(device.kind === 'cuda').each(grid({ ...turned, size: large }))(
    '%o',
    ({ transposeA, transposeB, size: [M, N, K] }) => {
      const a = random(device, transposeA ? [K, M] : [M, K], device.activations)
      const b = random(device, transposeB ? [N, K] : [K, N], device.activations, 2)
      const c = random(device, [M, N], device.activations, 3)
      const [rows, columns] = [sample(M), sample(N)]
      const left = { data: transposeA ? columnsOf(a, rows) : rowsOf(a, rows), transposed: transposeA }
      const right = { data: transposeB ? rowsOf(b, columns) : columnsOf(b, columns), transposed: transposeB }
      const scaling = { alpha: 0.5, beta: 1, c: part(c, rows, columns) }
      gemm(a, b, c, { transposeA, transposeB, alpha: 0.5, beta: 1 })
      const { want, bound } = productInDoubles([rows.length, columns.length, K], left, right, scaling)
      // Where the kernel adds to c itself, c is rounded twice.
      expectWithin(part(c, rows, columns), want, bound(device, [a.dtype, b.dtype], c.dtype, 1))
    },
  )

  // Wider and higher than the blocks that are packed at a time.
  test.each([
    [2100, 40, 30],
    [10, 3300, 30],
  ])('more than one block: %i x %i x %i', (M, N, K) => {
    const [a, b, c] = [random(device, [M, K]), random(device, [K, N], 'f32', 2), poisoned(device, [M, N])]
    gemm(a, b, c)
    const { want, bound } = productInDoubles([M, N, K], { data: toArray(a) }, { data: toArray(b) })
    expectWithin(c, want, bound(device, ['f32', 'f32'], 'f32'))
  })

  test('a sum over nothing is beta * c', () => {
    const c = random(device, [20, 3])
    const before = toArray(c)
    gemm(device.empty([20, 0], 'f32'), device.empty([0, 3], 'f32'), c, { beta: 0.5 })
    expect(toArray(c)).toEqual(before.map((x) => x / 2))
  })

  // A prompt in a batch gives the logits that it gives alone.
  test.each([
    { rows: 8, alone: 1 },
    { rows: 129, alone: 50 },
  ])('$alone rows alone are bit-equal to the same rows among $rows', ({ rows, alone }) => {
    const [a, b] = [random(device, [rows, 700]), random(device, [61, 700], 'f32', 2)]
    const [c, top] = [poisoned(device, [rows, 61]), poisoned(device, [alone, 61])]
    gemm(a, b, c, { transposeB: true })
    gemm(a.rows(rows - alone, rows), b, top, { transposeB: true })
    expect(top.read()).toEqual(c.rows(rows - alone, rows).read())
  })

  test('refuses what does not fit by name', () => {
    const [a, b, c] = [random(device, [2, 8]), random(device, [7, 3]), random(device, [2, 3])]
    expect(() => gemm(a, b, c)).toThrow(/gemm: b does not fit/)
    expect(() => gemm(a, a, c, { transposeB: true })).toThrow(/gemm: c does not fit/)
  })
})

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

  test.runIf(device.kind === 'cuda').each(grid({ transposed: [false, true], size: large }))(
    '%o',
    ({ transposed, size: [M, N, K] }) => {
      const weight = quantizeNf4(random(device, transposed ? [K, N] : [N, K], 'bf16', 2))
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

  test('refuses parts that do not fit by name', () => {
    const weight = quantizeNf4(random(device, [4, 64]))
    const [x, y] = [random(device, [2, 64]), random(device, [2, 4])]
    expect(() => nf4Gemm(x, { ...weight, shape: [4, 65] }, y)).toThrow(/nf4Gemm: x does not fit/)
    expect(() => nf4Gemm(x, { ...weight, absmax: y }, y)).toThrow(/nf4Gemm: absmax does not fit/)
    const { nestedOffset: _, ...half } = weight
    expect(() => nf4Gemm(x, half, y)).toThrow(/half of a double quantisation/)
  })
})

// A process chooses kernels and threads once, so these run in children; LORAM_CPU marks a child.
describe.skipIf(process.env.LORAM_CPU || process.env.LORAM_TEST_DEVICE)('the CPU engine', () => {
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const child = (args: string[], env: Record<string, string>) =>
    execFileSync(process.execPath, args, {
      cwd: root,
      env: { ...process.env, LORAM_TEST_DEVICE: 'cpu', ...env },
      encoding: 'utf8',
    })

  const flags = readFileSync('/proc/cpuinfo', 'utf8')
  const sets = { generic: true, avx2: / avx2 /.test(flags), avx512: / avx512dq /.test(flags) }

  for (const [set, supported] of Object.entries(sets)) {
    test.skipIf(!supported)(`passes these tests with its ${set} kernels`, () => {
      const tests = ['test/ops/gemm.test.ts', 'test/ops/nf4.test.ts', 'test/ops/lora.test.ts']
      child(['node_modules/vitest/vitest.mjs', 'run', ...tests], { LORAM_CPU: set })
    })
  }

  test('refuses an instruction set that it does not have', () => {
    expect(() => child(['test/ops/digest.mjs'], { LORAM_CPU: 'mmx' })).toThrow(/LORAM_CPU=mmx/)
  })

  test('gives the same bits on every number of threads', () => {
    const digests = ['1', '2', '5'].map((threads) => child(['test/ops/digest.mjs'], { LORAM_THREADS: threads }))
    expect(digests[0]).toMatch(/^[0-9a-f]{64}$/)
    expect(new Set(digests).size).toBe(1)
  })
})
