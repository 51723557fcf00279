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

onEveryDevice('a large tensor', (device) => {
  // Uploads go through 4 MiB of memory at a time.
  test.each([2 ** 21 + 1, 2 ** 22 + 100])('of rows of %i bf16 is written and read', (columns) => {
    const values = Uint16Array.from({ length: 3 * columns }, (_, i) => (i * 40503) & 0xffff)
    const read = device.empty([3, columns], 'bf16').write(values).read()
    expect(Buffer.from(read.buffer).equals(Buffer.from(values.buffer))).toBe(true)
  })

  test.runIf(device.kind === 'cuda')('of more than 2 GiB is read at once', () => {
    const size = 2 ** 31 + 5
    const tensor = zeros(device, [size], 'u8').write(Uint8Array.of(1, 2, 3), size - 3)
    const read = tensor.read() as Uint8Array
    expect(read.length).toBe(size)
    expect(Array.from(read.subarray(-4))).toEqual([0, 1, 2, 3])
    tensor.dispose()
  })
})
