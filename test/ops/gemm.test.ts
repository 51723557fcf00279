import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { gemm } from '../../src/native/gemm.ts'
import { columnsOf, large, part, rowsOf, sample } from './largeProducts.ts'
import { productInDoubles } from './product.ts'
import { expectWithin, floatsOf, grid, onEveryDevice, poisoned, random, toArray } from './support.ts'

// One row and eight rows are decoding, 129 is a batch; no size but 64 is a multiple of any tile.
const sizes = { M: [1, 7, 8, 9, 129], N: [1, 61], K: [1, 64, 700] } as const
const turned = { transposeA: [false, true], transposeB: [false, true] } as const

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

  // Of few rows, of some, and of as many as the largest tiles take.
  const heights = { M: [1, 12, 20, 700] } as const
  test.each(grid({ ...turned, ...heights }))('a sum over nothing is beta * c: %o', ({ transposeA, transposeB, M }) => {
    const N = 1000
    const a = device.empty(transposeA ? [0, M] : [M, 0], device.activations)
    const b = device.empty(transposeB ? [N, 0] : [0, N], 'f32')
    for (const beta of [0, 0.5, 1]) {
      const c = beta === 0 ? poisoned(device, [M, N]) : random(device, [M, N])
      const want = toArray(c).map((x) => (beta === 0 ? 0 : beta * x))
      gemm(a, b, c, { transposeA, transposeB, beta })
      expectWithin(c, want, () => 0)
    }
  })

  test.each(grid({ transposeB: [false, true], ...heights }))(
    'beside a sum over nothing there is the low-rank part: %o',
    ({ transposeB, M }) => {
      const [N, r] = [1000, 3]
      const [a, b] = [device.empty([M, 0], device.activations), device.empty(transposeB ? [N, 0] : [0, N], 'f32')]
      const left = random(device, [M, r], device.activations)
      const right = random(device, transposeB ? [N, r] : [r, N], 'f32', 2)
      const c = random(device, [M, N], device.activations, 3)
      const scaling = { alpha: 0.5, beta: 1, c: toArray(c) }
      const parts = [{ data: toArray(left) }, { data: toArray(right), transposed: transposeB }] as const
      const { want, bound } = productInDoubles([M, N, r], ...parts, scaling)
      gemm(a, b, c, { transposeB, alpha: 0.5, beta: 1, lowRank: { left, right } })
      expectWithin(c, want, bound(device, [left.dtype, right.dtype], c.dtype, 1))
    },
  )

  test.each(grid({ ...turned, M: [0, 200], N: [0, 200] }).filter(({ M, N }) => M * N === 0))(
    'a product without elements is none: %o',
    ({ transposeA, transposeB, M, N }) => {
      for (const K of [0, 5, 300]) {
        const a = random(device, transposeA ? [K, M] : [M, K], device.activations)
        const b = random(device, transposeB ? [N, K] : [K, N])
        const c = random(device, [M, N])
        gemm(a, b, c, { transposeA, transposeB })
        expect(c.read()).toEqual(new Float32Array(0))
      }
    },
  )

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

  // With the best, the tests of this process have run.
  const best = Object.entries(sets).findLast(([, supported]) => supported)![0]
  for (const [set, supported] of Object.entries(sets).filter(([set]) => set !== best)) {
    test.skipIf(!supported)(`passes these tests with its ${set} kernels`, () => {
      const tests = ['gemm', 'nf4Gemm', 'nf4', 'lora'].map((name) => `test/ops/${name}.test.ts`)
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
