import { dtypes } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { addon } from './load.ts'

/** What an op takes; `undefined` is an optional tensor that is absent. */
export type Field = Tensor | number | boolean | undefined

/** Numbers that a tensor takes in the frame: `native/addon/memory.h`. */
const tensorFields = 9

/** Writes the fields of the addon's next call, and returns how many numbers they are. */
export function pass(...fields: Field[]): number {
  const { frame } = addon()
  let end = 0
  for (const field of fields) {
    if (typeof field === 'object') passTensor(frame, end, field)
    else frame[end] = field === undefined ? -1 : Number(field)
    end += typeof field === 'object' || field === undefined ? tensorFields : 1
  }
  return end
}

function passTensor(frame: Float64Array, at: number, { memory, dtype, pitch, shape }: Tensor): void {
  frame[at] = memory.storage?.slot ?? -1
  frame[at + 1] = memory.byteOffset
  frame[at + 2] = dtypes.indexOf(dtype)
  frame[at + 3] = pitch
  frame[at + 4] = shape.length
  for (let i = 0; i < shape.length; i++) frame[at + 5 + i] = shape[i]!
}
