import { afterEach, expect, test } from 'vitest'
import { addBias, addBiasBackward } from '../../src/native/bias.ts'
import { zeros } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import { expectWithin, floatsOf, grid, onEveryDevice, random, storing, toArray, unitRoundoff } from './support.ts'

onEveryDevice('addBias', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  const cases = grid({ dtype: floatsOf(device), rows: [1, 7, 129], dim: [1, 61, 4300] } as const)
  test.each(cases)('$dtype [$rows, $dim]', ({ dtype, rows, dim }) => {
    const y = random(device, [rows, dim], dtype)
    const bias = random(device, [dim], 'f32', 2)
    const added = toArray(bias)
    const want = toArray(y).map((value, i) => value + added[i % dim]!)
    addBias(y, bias)
    expectWithin(y, want, (value) => (unitRoundoff.f32 + storing(dtype)) * Math.abs(value))
  })

  test.each(cases)('backward of $dtype [$rows, $dim]', ({ dtype, rows, dim }) => {
    const dy = random(device, [rows, dim], dtype)
    const dbias = random(device, [dim], 'f32', 2)
    const want = toArray(dbias)
    const magnitude = want.map(Math.abs)
    toArray(dy).forEach((value, i) => {
      want[i % dim]! += value
      magnitude[i % dim]! += Math.abs(value)
    })
    addBiasBackward(dy, dbias)
    // The rows are added up in double, rounded, and added to the gradient.
    expectWithin(dbias, want, (_, j) => 2 * unitRoundoff.f32 * magnitude[j]!)
  })

  test('backward adds up more rows than fit the y of a grid in slices of 256', () => {
    const rows = 2 ** 24
    const dy = device.empty([rows, 1], 'f32').write(new Float32Array(rows).fill(1))
    const dbias = zeros(device, [1], 'f32')
    addBiasBackward(dy, dbias)
    expect(dbias.item()).toBe(rows)
  })

  test('refuses a bias of another width by name', () => {
    expect(() => addBias(random(device, [2, 8]), random(device, [7]))).toThrow(/addBias: bias does not fit/)
  })
})
