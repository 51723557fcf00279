import { expect, test } from 'vitest'
import { OpError } from '../../src/errors.ts'
import { dequantizeNf4, quantizeNf4 } from '../../src/native/nf4.ts'
import { type AdamWStep, adamW } from '../../src/native/optimizer.ts'
import { Arena } from '../../src/tensor/arena.ts'
import { cpu, meta } from '../../src/tensor/device.ts'
import type { DType } from '../../src/tensor/dtype.ts'
import { tensorFrom, zeros } from '../../src/tensor/tensor.ts'

function refusal(body: () => unknown): string {
  try {
    body()
  } catch (error) {
    expect(error).toBeInstanceOf(OpError)
    expect(error).toMatchObject({ code: 'E_OP', details: { found: expect.any(String) } })
    return (error as Error).message
  }
  throw new Error('it was not refused')
}

/** What a caller in JavaScript may pass. */
const untyped = <Value>(value: unknown): Value => value as Value

const valuesOf = (tensor: { read(): ArrayLike<unknown> }) => Array.from(tensor.read())

test.each([5, 7])('%i values are not a tensor of 6', (count) => {
  const message = refusal(() => tensorFrom(cpu, new Float32Array(count), [2, 3]))
  expect(message).toMatch(RegExp(`tensorFrom: [\\s\\S]*6 values for \\[2, 3\\][\\s\\S]*found +${count}$`))
})

test.each([[[1, 2, 3]], [new Float64Array(3)], [new Uint16Array(3)]])('no tensor is made from %o', (data) => {
  const message = refusal(() => tensorFrom(cpu, untyped(data), [3]))
  expect(message).toContain('Float32Array, Int32Array, Uint8Array, BigInt64Array')
  expect(message).toContain(data.constructor.name)
})

test.each<[DType, unknown, string]>([
  ['f32', new Int32Array(3), 'Int32Array'],
  ['f32', [1, 2, 3], 'Array'],
  ['bf16', new Float32Array(3), 'Float32Array'],
  ['i32', new Uint32Array(3), 'Uint32Array'],
  ['u8', [1, 2, 3], 'Array'],
])('%s is not written from %o', (dtype, data, name) => {
  for (const device of [cpu, meta]) {
    const message = refusal(() => zeros(device, [3], dtype).write(untyped(data)))
    expect(message).toMatch(RegExp(`write: [^\\n]*${dtype}[\\s\\S]*raw bytes[\\s\\S]*found +${name}$`))
  }
})

test('values of the dtype and raw bytes are written, and any bytes into u8', () => {
  expect(valuesOf(zeros(cpu, [2], 'bf16').write(Uint16Array.of(0x3f80, 0)))).toEqual([0x3f80, 0])
  expect(valuesOf(zeros(cpu, [2], 'f32').write(Buffer.from(Float32Array.of(2).buffer), 4))).toEqual([0, 2])
  const bytes = zeros(cpu, [8], 'u8').write(Float64Array.of(2)).read() as Uint8Array
  expect(Array.from(new Float64Array(bytes.buffer))).toEqual([2])
  const message = refusal(() => zeros(cpu, [2], 'f32').write(new Float32Array(2), 4))
  expect(message).toMatch(/write failed\n[\s\S]*past the end of its tensor/)
})

test.each<[number[], string]>([
  [[1.5, 4], 'f32'],
  [[Number.NaN], 'f32'],
  [[-1, 4], 'f32'],
  [[2 ** 60], 'f32'],
  [[1, 1, 1, 1, 1], 'f32'],
  [[3], 'f64'],
])('there is no tensor %j of %s', (shape, dtype) => {
  for (const device of [cpu, meta, new Arena(cpu, 1024), new Arena(meta)]) {
    expect(refusal(() => zeros(device, shape, dtype as DType))).toContain(`[${shape.join(', ')}] ${dtype}`)
  }
})

test('a tensor may be empty, and a scalar', () => {
  for (const device of [cpu, new Arena(cpu, 1024)]) {
    expect(valuesOf(zeros(device, [0, 4], 'bf16'))).toEqual([])
    expect(valuesOf(zeros(device, [], 'i32'))).toEqual([0])
  }
})

test('an arena has a number of bytes, and on meta perhaps no limit', () => {
  for (const capacity of [Number.NaN, -1]) {
    for (const device of [cpu, meta]) expect(refusal(() => new Arena(device, capacity))).toContain(`${capacity}`)
  }
  expect(refusal(() => new Arena(cpu))).toMatch(/Arena: [\s\S]*a number of bytes\n[\s\S]*Infinity/)
  expect(new Arena(meta).empty([2], 'f32').bytes).toBe(8)
  expect(new Arena(cpu, 0).peak).toBe(0)
})

test('views are of rows and columns that a tensor has', () => {
  const matrix = zeros(cpu, [3, 2], 'f32')
  for (const [from, to] of [
    [2, 1],
    [0, 4],
    [-1, 1],
    [0.5, 1],
    [0, Number.NaN],
  ] as const) {
    const found = `${from} to ${to} of [3, 2]`
    expect(refusal(() => matrix.rows(from, to))).toMatch(/rows: [\s\S]*to <= 3/)
    expect(refusal(() => matrix.rows(from, to))).toContain(found)
    expect(refusal(() => matrix.columns(from, to))).toContain(found)
  }
  expect(refusal(() => matrix.columns(1, 9))).toMatch(/columns: [\s\S]*to <= 2[\s\S]*1 to 9 of \[3, 2\]/)
  for (const shape of [[], [4], [1, 2, 3]]) {
    expect(refusal(() => zeros(cpu, shape, 'f32').columns(0, 1))).toContain('a tensor with columns')
  }
  expect(refusal(() => zeros(cpu, [], 'f32').rows(0, 1))).toContain('a tensor with rows')
  expect(matrix.rows(3, 3).shape).toEqual([0, 2])
  expect(matrix.columns(0, 2).rows(1, 3).shape).toEqual([2, 2])
})

test('a slice begins at an element, and may reach past its tensor but not past the memory', () => {
  const tensor = tensorFrom(cpu, Float32Array.of(1, 2, 3, 4))
  for (const from of [-1, 0.5, Number.NaN]) expect(refusal(() => tensor.slice(from, [1]))).toContain(`${from}`)
  expect(refusal(() => tensor.slice(0, [-1]))).toMatch(/slice: [\s\S]*\[-1\] f32/)
  expect(valuesOf(tensor.rows(0, 2).slice(1, [3]))).toEqual([2, 3, 4])
  const past = tensor.slice(2, [3])
  expect(refusal(() => past.read())).toMatch(/read failed\n[\s\S]*reaches past its memory/)
})

test('NF4 becomes f32 or bf16', () => {
  const weight = quantizeNf4(zeros(cpu, [2, 64], 'f32'))
  for (const dtype of ['i32', 'f16', undefined]) {
    expect(refusal(() => dequantizeNf4(weight, untyped(dtype)))).toMatch(/f32 or bf16\n +found +(i32|f16|undefined)$/)
  }
})

test('a tensor that was disposed of, and an option that is missing, are refused by name', () => {
  const [kept, gone] = [zeros(cpu, [4], 'f32'), zeros(cpu, [4], 'f32')]
  gone.dispose()
  for (const [op, use] of [
    ['read', () => gone.read()],
    ['zero', () => gone.zero()],
    ['write', () => gone.write(new Float32Array(4))],
    ['adamW', () => adamW(kept, gone, kept, kept, rates)],
  ] as const) {
    expect(refusal(use)).toMatch(RegExp(`${op} failed\n[\\s\\S]*the memory of this tensor was released`))
  }
  expect(refusal(() => adamW(kept, kept, kept, kept, untyped({})))).toMatch(
    /adamW failed\n +expected +every tensor and number[\s\S]*adamW: not its fields/,
  )
})

const rates: AdamWStep = { learningRate: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, step: 1 }
