import { ModelError } from '../errors.ts'
import { type TensorType, tensorTypes } from '../formats/gguf/tensorTypes.ts'
import { cast, countNonFinite } from '../native/cast.ts'
import { cpu } from '../tensor/device.ts'
import { type Tensor, tensorFrom } from '../tensor/tensor.ts'

/** Types that weights are exported in, by their option. */
export const exportTypes = {
  f16: tensorTypes.F16,
  bf16: tensorTypes.BF16,
  f32: tensorTypes.F32,
  q8_0: tensorTypes.Q8_0,
} as const satisfies Record<string, TensorType>
export type ExportType = keyof typeof exportTypes

/**
 * The bytes that a GGUF file has for rows `values` [rows, columns] on the CPU.
 * @throws {ModelError} `E_NONFINITE`: a value is too large for half precision
 */
export function encode(values: Tensor, type: TensorType, name: string): Uint8Array {
  if (type === tensorTypes.Q8_0) return quantizeQ8(cast(values, 'f32').read() as Float32Array, name)
  const encoded = cast(values, type.dtype)
  if (type === tensorTypes.F16) requireFinite(encoded, name)
  const { buffer, byteOffset, byteLength } = encoded.read()
  return new Uint8Array(buffer, byteOffset, byteLength)
}

/**
 * Blocks of 32: a half-precision scale, the largest magnitude / 127, and 32 int8, rounded half away from zero. The bytes are
 * those of ggml's `quantize_row_q8_0_ref`, which computes in float32.
 */
function quantizeQ8(values: Float32Array, name: string): Uint8Array {
  const { blockElements, blockBytes } = tensorTypes.Q8_0
  const blocks = values.length / blockElements
  const scales = new Float32Array(blocks)
  const bytes = new Int8Array(blocks * blockBytes)
  for (let block = 0; block < blocks; block++) {
    const from = block * blockElements
    let largest = 0
    for (let i = 0; i < blockElements; i++) largest = Math.max(largest, Math.abs(values[from + i]!))
    const scale = Math.fround(largest / 127)
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
    scales[block] = scale
    for (let i = 0; i < blockElements; i++) {
      bytes[block * blockBytes + 2 + i] = roundHalfAway(Math.fround(values[from + i]! * inverse))
    }
  }
  const halves = cast(tensorFrom(cpu, scales), 'f16')
  requireFinite(halves, name)
  const view = new DataView(bytes.buffer)
  for (const [block, bits] of halves.read().entries()) view.setUint16(block * blockBytes, Number(bits), true)
  return new Uint8Array(bytes.buffer)
}

const roundHalfAway = (value: number) => (value < 0 ? -Math.floor(0.5 - value) : Math.floor(value + 0.5))

function requireFinite(halves: Tensor, name: string): void {
  const { count } = countNonFinite(halves)
  if (count === 0) return
  throw new ModelError('E_NONFINITE', 'a weight is too large for half precision', {
    tensor: name,
    expected: 'magnitudes up to 65504',
    found: `${count} of ${halves.elements} values beyond`,
    remedy: 'export as bf16 or f32',
  })
}
