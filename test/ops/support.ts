import { beforeAll, describe, expect, test } from 'vitest'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { cpu, cudaStatus, openDevice } from '../../src/tensor/device.ts'
import { bytesPerElement, type DType, elements } from '../../src/tensor/dtype.ts'
import { type Device, Tensor, type TensorData } from '../../src/tensor/tensor.ts'
import { goldenPath } from '../golden.ts'

/** The dtype that the device of the tests that run now computes in. */
let precision: Device['activations'] = 'f32'

/**
 * Runs the same tests on every device there is, or on the one that LORAM_TEST_DEVICE names; one that is missing is listed as
 * skipped, with the reason.
 */
export function onEveryDevice(name: string, tests: (device: Device) => void): void {
  const on = (device: Device) =>
    describe(`${name} on ${device.kind}`, () => {
      beforeAll(() => {
        precision = device.activations
      })
      tests(device)
    })
  const only = process.env.LORAM_TEST_DEVICE
  if (only !== 'cuda') on(cpu)
  if (only === 'cpu') return
  const reason = cudaStatus()
  // A skipped describe still runs its callback, to list what it skips.
  if (reason) test.skip(`${name} on cuda (skipped: ${reason})`)
  else on(openDevice('cuda'))
}

/** The largest relative error of one rounding to nearest. */
export const unitRoundoff = { f32: 2 ** -24, bf16: 2 ** -8, f16: 2 ** -11 }

/** The dtypes that ops compute in on a device. */
export const floatsOf = ({ activations }: Device) =>
  activations === 'bf16' ? (['f32', 'bf16'] as const) : (['f32'] as const)

/** The relative error of rounding a result, computed in f32, to the dtype it is stored in. */
export const storing = (dtype: DType): number => (dtype === 'bf16' ? unitRoundoff.bf16 : 0)

/** Every combination of the listed values. */
export function grid<Axes extends Record<string, readonly unknown[]>>(
  axes: Axes,
): { [K in keyof Axes]: Axes[K][number] }[] {
  return Object.entries(axes).reduce<Record<string, unknown>[]>(
    (cases, [name, values]) => cases.flatMap((c) => values.map((value) => ({ ...c, [name]: value }))),
    [{}],
  ) as { [K in keyof Axes]: Axes[K][number] }[]
}

/** A reproducible generator of doubles in [-1, 1) (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1
  }
}

export const toBf16 = (values: ArrayLike<number>): Uint16Array => {
  const bits = new Uint32Array(Float32Array.from(values).buffer)
  return Uint16Array.from(bits, (u) => (u + 0x7fff + ((u >>> 16) & 1)) >>> 16)
}
export const fromBf16 = (bits: Uint16Array): Float32Array =>
  new Float32Array(Uint32Array.from(bits, (u) => u << 16).buffer)

/** A tensor of reproducible values in [-1, 1), f32 or bf16. */
export function random(device: Device, shape: number[], dtype: 'f32' | 'bf16' = 'f32', seed = 1): Tensor {
  return floatTensor(device, Float32Array.from({ length: elements(shape) }, generator(seed)), shape, dtype)
}

/** A tensor, f32 or bf16, of the given values, rounded to its dtype. */
export const floatTensor = (
  device: Device,
  values: ArrayLike<number>,
  shape: number[],
  dtype: 'f32' | 'bf16',
): Tensor => device.empty(shape, dtype).write(dtype === 'f32' ? Float32Array.from(values) : toBf16(values))

/** A tensor that holds NaN everywhere, to show that an op overwrites all of its output. */
export const poisoned = (device: Device, shape: number[], dtype: 'f32' | 'bf16' = 'f32'): Tensor =>
  floatTensor(device, new Float32Array(elements(shape)).fill(Number.NaN), shape, dtype)

/** A tensor's values as doubles, whatever its dtype. */
export function toArray(tensor: Tensor): Float64Array {
  const data = tensor.read()
  return Float64Array.from((tensor.dtype === 'bf16' ? fromBf16(data as Uint16Array) : data) as ArrayLike<number>)
}

/**
 * Fails unless every |got - want| is at most `bound(want, index)`; says which element is worst and by how many bounds.
 * A NaN never passes.
 */
export function expectWithin(
  got: Tensor | ArrayLike<number>,
  want: ArrayLike<number>,
  bound: (want: number, index: number) => number,
): void {
  const values = got instanceof Tensor ? toArray(got) : got
  expect(values.length).toBe(want.length)
  let worst = { index: -1, ratio: 0 }
  for (let i = 0; i < want.length; i++) {
    const limit = bound(want[i]!, i)
    const error = Math.abs(values[i]! - want[i]!)
    const ratio = error <= limit ? (limit > 0 ? error / limit : 0) : Number.isNaN(error) ? Infinity : error / limit
    if (ratio > worst.ratio) worst = { index: i, ratio }
  }
  const { index, ratio } = worst
  expect(
    ratio,
    `element ${index}: got ${values[index]}, want ${want[index]}, off by ${ratio} bounds`,
  ).toBeLessThanOrEqual(1)
}

/**
 * Fails unless what a model computed are these values. In fp32: to 1e-5 of the largest, through a few layers. In bf16 every
 * activation is rounded, by 1.7e-3 of itself on average, some 50 times through a forward and a backward pass: 1.2e-2 by
 * their root mean square, and up to three times that where few tokens add up. A loss or a norm is a mean over many.
 */
export function expectClose(got: Tensor | ArrayLike<number>, want: ArrayLike<number>): void {
  const bound = 1e-5 * largest(want)
  if (precision === 'f32') expectWithin(got, want, () => bound)
  else expectRelative(got instanceof Tensor ? toArray(got) : got, want, want.length > 8 ? 4e-2 : 1e-2)
}

/** Fails unless the Euclidean norm of the differences is at most `bound` times that of `want`. */
function expectRelative(got: ArrayLike<number>, want: ArrayLike<number>, bound: number): void {
  expect(got.length).toBe(want.length)
  const norm = (term: (i: number) => number) =>
    Math.sqrt(Array.from(want, (_, i) => term(i) ** 2).reduce((sum, square) => sum + square, 0))
  expect(norm((i) => got[i]! - want[i]!)).toBeLessThanOrEqual(bound * norm((i) => want[i]!))
}

/** Largest absolute value: the scale that sums of mixed signs are judged by. */
export const largest = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((m, v) => Math.max(m, Math.abs(v)), 0)

const goldenTypes = {
  f32: Float32Array,
  i32: Int32Array,
  u8: Uint8Array,
  i64: BigInt64Array,
  bf16: Uint16Array,
  f16: Uint16Array,
}

/** The tensors of a golden file, as typed arrays with their shapes. */
export const readGolden = (...parts: string[]) => readTensors(goldenPath(...parts))

/** The tensors of any safetensors file, likewise. */
export function readTensors(
  path: string,
): (name: string) => { data: Float32Array; ints: Int32Array; bytes: Uint8Array; shape: number[]; dtype: DType } {
  const file = openSafetensors(path)
  return (name) => {
    const info = file.tensors.get(name)
    if (!info) throw new Error(`${path} has no tensor ${name}`)
    const bytes = Uint8Array.from(file.read(name))
    const data: TensorData = new goldenTypes[info.dtype](
      bytes.buffer,
      0,
      bytes.byteLength / bytesPerElement[info.dtype],
    )
    return {
      data: data as Float32Array,
      ints: data as unknown as Int32Array,
      bytes,
      shape: info.shape,
      dtype: info.dtype,
    }
  }
}
