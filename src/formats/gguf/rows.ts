import { bytesPerElement } from '../../tensor/dtype.ts'
import { toBf16, toFloat32 } from '../float32.ts'
import type { GgufFile, GgufTensor } from './file.ts'

/** Bytes of one row of a tensor in the dtype that loram reads it as. */
export const decodedRowBytes = ({ shape, type }: GgufTensor): number => shape.at(-1)! * bytesPerElement[type.dtype]

/** Reads rows of a tensor one by one, decoded to its dtype; each is valid until the next is read. */
export function rowReader(gguf: GgufFile, tensor: GgufTensor): (row: number) => Uint8Array<ArrayBuffer> {
  const { type, rowBytes, shape } = tensor
  const raw = new Uint8Array(rowBytes)
  const { decode } = type
  if (decode === undefined) {
    return (row) => {
      gguf.readRow(tensor, row, raw)
      return raw
    }
  }
  const view = new DataView(raw.buffer)
  const values = new Float32Array(shape.at(-1)!)
  return (row) => {
    gguf.readRow(tensor, row, raw)
    for (let at = 0, to = 0; at < rowBytes; at += type.blockBytes, to += type.blockElements)
      decode(view, at, values, to)
    return new Uint8Array(toBf16(values).buffer as ArrayBuffer)
  }
}

/** The values of a small tensor of one row. */
export function readPlainTensor(gguf: GgufFile, tensor: GgufTensor): Float32Array {
  return toFloat32(rowReader(gguf, tensor)(0), tensor.type.dtype)
}
