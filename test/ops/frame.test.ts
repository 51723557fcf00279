import { expect, test } from 'vitest'
import { call } from '../../src/native/call.ts'
import { cast } from '../../src/native/cast.ts'
import { pass } from '../../src/native/frame.ts'
import { addon } from '../../src/native/load.ts'
import { cpu } from '../../src/tensor/device.ts'
import { Tensor, tensorFrom } from '../../src/tensor/tensor.ts'

const at = (byteOffset: number, shape: readonly number[]) =>
  new Tensor(cpu, shape, 'f32', { ...cpu.empty([4], 'f32').memory, byteOffset })

test('fields lie in the frame as the addon reads them', () => {
  const tensor = at(8, [2])
  const { storage } = tensor.memory
  expect(pass(tensor, undefined, true, 0.5)).toBe(20)
  expect(Array.from(addon().frame.subarray(0, 6))).toEqual([storage!.slot, 8, 0, 2, 1, 2])
  expect(Array.from(addon().frame.subarray(18, 20))).toEqual([1, 0.5])
  expect(addon().frame[9]).toBe(-1)
})

test('what is not in memory is refused', () => {
  const tensor = at(0, [4])
  expect(() => at(4, [4]).read()).toThrow(/reaches past its memory/)
  expect(() => at(-4, [2]).read()).toThrow(/reaches past its memory/)
  expect(() => at(2 ** 40, [0]).read()).toThrow(/reaches past its memory/)
  expect(() => call('cast', at(0, [-1]), tensor)).toThrow(/reaches past its memory/)
  expect(() => tensor.write(new Float32Array(1), -4)).toThrow(/past the end of its tensor/)
  expect(() => at(0, [1, 1, 1, 1, 1]).read()).toThrow(/at most 4 dimensions/)
  expect(() => call('cast', tensor)).toThrow(/cast: not its fields/)
  expect(() => call('cast', tensor, tensor, 1)).toThrow(/cast: not its fields/)
  const foreign = new Tensor(cpu, [4], 'f32', { storage: { slot: 1e6 }, byteOffset: 0 })
  expect(() => call('cast', tensor, foreign)).toThrow(/expected memory of this addon/)
})

test('columns of a wider matrix are taken where an op looks at them alone, and refused elsewhere', () => {
  const matrix = tensorFrom(
    cpu,
    Float32Array.from({ length: 12 }, (_, i) => i),
    [3, 4],
  )
  const columns = matrix.columns(1, 3)
  expect(Array.from(columns.read() as Float32Array)).toEqual([1, 2, 5, 6, 9, 10])
  expect(() => cast(columns, 'f32')).toThrow(/E_OP.*cast: x does not fit[\s\S]*columns of a wider matrix/)
  expect(Array.from(cast(matrix.rows(1, 3), 'f32').read() as Float32Array)).toEqual([4, 5, 6, 7, 8, 9, 10, 11])
  columns.zero()
  expect(Array.from(matrix.read() as Float32Array)).toEqual([0, 0, 0, 3, 4, 0, 0, 7, 8, 0, 0, 11])
})
