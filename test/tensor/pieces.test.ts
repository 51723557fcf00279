import { expect, test } from 'vitest'
import { readPieces, writePieces } from '../../src/tensor/pieces.ts'
import { tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { onEveryDevice } from '../ops/support.ts'

onEveryDevice('a tensor in pieces', (device) => {
  const values = Float32Array.from({ length: 7 * 13 }, (_, i) => i + 0.5)
  const bytes = new Uint8Array(values.buffer)

  test.each([4, 52, 256, 364, 1 << 20])('of %d bytes is read whole', (size) => {
    const matrix = tensorFrom(device, values, [7, 13])
    const pieces = Array.from(readPieces(matrix, size))
    expect(pieces).toHaveLength(Math.ceil(bytes.length / size))
    expect(Buffer.concat(pieces).equals(bytes)).toBe(true)
  })

  test.each([4, 52, 256, 364, 1 << 20])('of %d bytes is written, as much as is asked for', (size) => {
    const readInto = (target: Uint8Array, from: number) => target.set(bytes.subarray(from, from + target.length))
    const whole = zeros(device, [7, 13], 'f32')
    writePieces(whole, readInto, whole.bytes, size)
    expect(whole.read()).toEqual(values)
    const part = zeros(device, [7, 13], 'f32')
    writePieces(part, readInto, 4 * 50, size)
    expect(part.read()).toEqual(values.map((value, i) => (i < 50 ? value : 0)))
  })
})
