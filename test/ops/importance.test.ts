import { afterEach, expect, test } from 'vitest'
import { importance } from '../../src/native/importance.ts'
import { tensorFrom } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import { expectWithin, grid, onEveryDevice, random, toArray, unitRoundoff } from './support.ts'

const cases = {
  rows: [1, 7, 129],
  columns: [1, 61, 4300],
  dtype: ['f32', 'bf16'],
  withGrad: [true, false],
  squared: [false, true],
} as const

onEveryDevice('importance', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  test.each(grid(cases))('$dtype [$rows, $columns], gradient $withGrad, squared $squared', (c) => {
    const { rows, columns, dtype, withGrad, squared } = c
    const w = random(device, [rows, columns], dtype)
    const grad = random(device, [rows, columns], 'f32', 2)
    // Sums are added to what is there.
    const rowWant = new Float64Array(rows).fill(2)
    const columnWant = new Float64Array(columns).fill(3)
    const gradients = toArray(grad)
    toArray(w).forEach((value, at) => {
      const product = withGrad ? value * gradients[at]! : value
      const score = squared ? product ** 2 : Math.abs(product)
      rowWant[Math.floor(at / columns)]! += score
      columnWant[at % columns]! += score
    })
    const rowSums = tensorFrom(device, new Float32Array(rows).fill(2))
    const columnSums = tensorFrom(device, new Float32Array(columns).fill(3))
    importance(w, { rowSums, columnSums, squared, ...(withGrad && { grad }) })
    // Summed in double: the sum is rounded, and so is its addition.
    expectWithin(rowSums, rowWant, (want) => 2 * unitRoundoff.f32 * want)
    expectWithin(columnSums, columnWant, (want) => 2 * unitRoundoff.f32 * want)
  })

  test('one of the sums can be left out', () => {
    const w = tensorFrom(device, Float32Array.of(1, -2, 3, -4), [2, 2])
    const [rowSums, columnSums] = [tensorFrom(device, Float32Array.of(0, 0)), tensorFrom(device, Float32Array.of(0, 0))]
    importance(w, { rowSums })
    importance(w, { columnSums })
    expect(rowSums.read()).toEqual(Float32Array.of(3, 7))
    expect(columnSums.read()).toEqual(Float32Array.of(4, 6))
  })
})
