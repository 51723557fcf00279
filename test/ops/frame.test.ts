import { expect, test } from 'vitest'
import { call } from '../../src/native/call.ts'
import { cast } from '../../src/native/cast.ts'
import { pass } from '../../src/native/frame.ts'
import { gemm } from '../../src/native/gemm.ts'
import { addon } from '../../src/native/load.ts'
import { cpu, metaDevice } from '../../src/tensor/device.ts'
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

test('of a wider matrix on the GPU products take columns that begin at 16 bytes, and other ops none', () => {
  const gpu = metaDevice('cuda')
  const [bf16, f32] = (['bf16', 'f32'] as const).map((dtype) => gpu.empty([64, 128], dtype)) as [Tensor, Tensor]
  for (const wide of [bf16, f32]) {
    expect(() => cast(wide.columns(0, 64), 'f32')).toThrow(/E_OP.*cast: x does not fit[\s\S]*columns of a wider matrix/)
    const square = gpu.empty([64, 64], 'bf16')
    gemm(square, square, wide.columns(8, 72))
    expect(() => gemm(square, square, wide.columns(1, 65))).toThrow(/gemm: c does not fit[\s\S]*multiples of 16 bytes/)
  }
  // rows that are no whole lines of 16 bytes are read one by one
  const odd = gpu.empty([8, 7], 'f32')
  gemm(odd.rows(1, 8), gpu.empty([7, 64], 'bf16'), gpu.empty([7, 64], 'f32'))
})

test('a low-rank part does not ride along where a is transposed', () => {
  const [a, lowRank] = [cpu.empty([4, 4], 'f32'), { left: cpu.empty([4, 2], 'f32'), right: cpu.empty([2, 4], 'f32') }]
  gemm(a, a, cpu.empty([4, 4], 'f32'), { lowRank })
  expect(() => gemm(a, a, cpu.empty([4, 4], 'f32'), { transposeA: true, lowRank })).toThrow(/E_OP.*low-rank/)
})
