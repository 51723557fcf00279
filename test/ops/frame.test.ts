import { expect, test } from 'vitest'
import { call } from '../../src/native/call.ts'
import { pass } from '../../src/native/frame.ts'
import { addon } from '../../src/native/load.ts'
import { cpu } from '../../src/tensor/device.ts'
import { Tensor } from '../../src/tensor/tensor.ts'

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
  expect(() => at(4, [4]).read()).toThrow(/reaches past the end of its memory/)
  expect(() => at(0, [1, 1, 1, 1, 1]).read()).toThrow(/at most 4 dimensions/)
  expect(() => call('cast', tensor)).toThrow(/cast: not its fields/)
  expect(() => call('cast', tensor, tensor, 1)).toThrow(/cast: not its fields/)
  const foreign = new Tensor(cpu, [4], 'f32', { storage: { slot: 1e6 }, byteOffset: 0 })
  expect(() => call('cast', tensor, foreign)).toThrow(/expected memory of this addon/)
})
