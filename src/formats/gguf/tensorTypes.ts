import type { DType } from '../../tensor/dtype.ts'
import { halfToFloat } from '../float32.ts'

/** Widens the block that begins at byte `at` to float32 values from `to` on. */
type Decode = (bytes: DataView, at: number, values: Float32Array, to: number) => void

/** How a tensor's elements lie in a GGUF file: each row in blocks. */
export interface TensorType {
  id: number
  name: string
  blockElements: number
  blockBytes: number
  /** What loram reads it as. Quantised weights become bf16: finer than their own steps, at half the memory of f32. */
  dtype: DType & ('f32' | 'f16' | 'bf16')
  /** Of quantised types. */
  decode?: Decode
}

/** Formats: ggml's `block_q4_0` and so on, https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h */
export const tensorTypes = {
  F32: plain(0, 'F32', 4, 'f32'),
  F16: plain(1, 'F16', 2, 'f16'),
  BF16: plain(30, 'BF16', 2, 'bf16'),
  Q4_0: quantized(2, 'Q4_0', 32, 18, (bytes, at, values, to) => {
    const d = half(bytes, at)
    decodeNibbles(bytes, at + 2, values, to, d, -8 * d)
  }),
  Q4_1: quantized(3, 'Q4_1', 32, 20, (bytes, at, values, to) =>
    decodeNibbles(bytes, at + 4, values, to, half(bytes, at), half(bytes, at + 2)),
  ),
  Q8_0: quantized(8, 'Q8_0', 32, 34, (bytes, at, values, to) => {
    const d = half(bytes, at)
    for (let i = 0; i < 32; i++) values[to + i] = d * bytes.getInt8(at + 2 + i)
  }),
  Q4_K: quantized(12, 'Q4_K', 256, 144, decodeQ4K),
  Q6_K: quantized(14, 'Q6_K', 256, 210, decodeQ6K),
} as const satisfies Record<string, TensorType>

/** Types of other files, by id, so that a refusal can name them. */
const otherTypes: Record<number, string> = {
  6: 'Q5_0',
  7: 'Q5_1',
  9: 'Q8_1',
  10: 'Q2_K',
  11: 'Q3_K',
  13: 'Q5_K',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  34: 'TQ1_0',
  35: 'TQ2_0',
  39: 'MXFP4',
}

const byId = new Map<number, TensorType>(Object.values(tensorTypes).map((type) => [type.id, type]))

export const tensorTypeOf = (id: number): TensorType | undefined => byId.get(id)
export const nameOfType = (id: number): string => byId.get(id)?.name ?? otherTypes[id] ?? `number ${id}`

function plain(id: number, name: string, bytes: number, dtype: TensorType['dtype']): TensorType {
  return { id, name, blockElements: 1, blockBytes: bytes, dtype }
}

function quantized(id: number, name: string, blockElements: number, blockBytes: number, decode: Decode): TensorType {
  return { id, name, blockElements, blockBytes, dtype: 'bf16', decode }
}

const half = (bytes: DataView, at: number) => halfToFloat(bytes.getUint16(at, true))

/** 16 bytes: the low nibbles are the first 16 values, the high ones the others. */
function decodeNibbles(bytes: DataView, at: number, values: Float32Array, to: number, scale: number, offset: number) {
  for (let i = 0; i < 16; i++) {
    const byte = bytes.getUint8(at + i)
    values[to + i] = scale * (byte & 15) + offset
    values[to + i + 16] = scale * (byte >> 4) + offset
  }
}

/** Two halves d and dmin, 12 bytes with eight 6-bit pairs of scale and minimum, 128 bytes of nibbles; 32 values a pair. */
function decodeQ4K(bytes: DataView, at: number, values: Float32Array, to: number) {
  const d = half(bytes, at)
  const dmin = half(bytes, at + 2)
  const packed = (i: number) => bytes.getUint8(at + 4 + i)
  for (let group = 0; group < 8; group++) {
    const low = group < 4
    const scale = low ? packed(group) & 63 : (packed(group + 4) & 15) | ((packed(group - 4) >> 6) << 4)
    const minimum = low ? packed(group + 4) & 63 : (packed(group + 4) >> 4) | ((packed(group) >> 6) << 4)
    const nibbles = at + 16 + 32 * (group >> 1)
    const shift = 4 * (group & 1)
    for (let i = 0; i < 32; i++) {
      const q = (bytes.getUint8(nibbles + i) >> shift) & 15
      values[to + 32 * group + i] = d * scale * q - dmin * minimum
    }
  }
}

/** 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, a half d; 16 values a scale. */
function decodeQ6K(bytes: DataView, at: number, values: Float32Array, to: number) {
  const d = half(bytes, at + 208)
  for (let i = 0; i < 256; i++) {
    const side = i >> 7
    const quarter = (i >> 5) & 3
    const lane = i & 31
    const low = bytes.getUint8(at + 64 * side + 32 * (quarter & 1) + lane) >> (4 * (quarter >> 1))
    const high = bytes.getUint8(at + 128 + 32 * side + lane) >> (2 * quarter)
    const q = ((low & 15) | ((high & 3) << 4)) - 32
    values[to + i] = d * bytes.getInt8(at + 192 + (i >> 4)) * q
  }
}
