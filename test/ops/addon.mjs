// The addon's ops for scripts that run in a process of their own without a build step: what src/native/frame.ts does.
import { createRequire } from 'node:module'

export const addon = createRequire(import.meta.url)('../../build/Release/loram.node')
const dtypes = { f32: 0, i32: 4, i64: 5 }
const bytesPerElement = { f32: 4, i32: 4, i64: 8 }

/** A tensor of zeros where there are no `values`. */
export function tensor(dtype, shape, values, place = 'cpu') {
  const bytes = shape.reduce((product, size) => product * size, 1) * bytesPerElement[dtype]
  const made = { storage: addon.allocate(bytes, place), dtype: dtypes[dtype], shape, bytes }
  if (values) {
    addon.frame.set(numbersOf(made))
    addon.upload(0, new Uint8Array(values.buffer))
  }
  return made
}

export function bytesOf(tensor) {
  const bytes = new Uint8Array(tensor.bytes)
  addon.frame.set(numbersOf(tensor))
  addon.download(0, bytes)
  return bytes
}

/** Runs an op; `null` is a tensor that is absent. */
export function call(op, ...fields) {
  const numbers = fields.flatMap(numbersOf)
  addon.frame.set(numbers)
  addon[op](numbers.length)
}

function numbersOf(field) {
  if (field === null) return [-1, 0, 0, 0, 0, 0, 0, 0, 0]
  if (typeof field !== 'object') return [Number(field)]
  const { storage, dtype, shape } = field
  return [storage.slot, 0, dtype, shape.at(-1), shape.length, ...Array.from({ length: 4 }, (_, i) => shape[i] ?? 0)]
}
