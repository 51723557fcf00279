import type { DType } from '../tensor/dtype.ts'

/** Widens the bytes of an F32, BF16 or F16 tensor, which are aligned to its elements; every value is exact. */
export function toFloat32(
  bytes: Uint8Array<ArrayBuffer>,
  dtype: DType & ('f32' | 'bf16' | 'f16'),
): Float32Array<ArrayBuffer> {
  if (dtype === 'f32') return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)
  if (dtype === 'f16') return Float32Array.from(halves, halfToFloat)
  return new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer)
}

/** IEEE 754 binary16: 1 bit of sign, 5 of exponent with bias 15, 10 of fraction. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/** The nearest bf16 values, ties to even. `values` are finite. */
export function toBf16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const halves = new Uint16Array(values.length)
  for (let i = 0; i < words.length; i++) halves[i] = (words[i]! + 0x7fff + ((words[i]! >>> 16) & 1)) >>> 16
  return halves
}
