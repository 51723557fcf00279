import { expect, test } from 'vitest'
import { sparseGpt } from '../../src/native/sparse.ts'
import { cpu } from '../../src/tensor/device.ts'

test('an op that finds no memory says so', () => {
  const [w, h] = [cpu.empty([1, 4], 'f32'), cpu.empty([4, 4], 'f32')]
  expect(() => sparseGpt(w, h, h, { n: 1, m: 2 }, 2 ** 44)).toThrow(/E_MEMORY/)
})
