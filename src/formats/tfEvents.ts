import { closeSync, mkdirSync, openSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { writeFully } from './atomic.ts'
import { writing } from './disk.ts'

/**
 * Writes scalars for TensorBoard: a file of TFRecords, each an `Event` of tensorflow/core/util/event.proto, whose wire format is
 * spelt out here because it takes less than a library for it would.
 */
export class TfEventsWriter {
  readonly #fd: number
  readonly #file: string

  /**
   * Begins a new file in `dir`, which TensorBoard reads together with the older ones there.
   * @param step what earlier files say about this step and later ones is void
   * @throws {RunError} `E_DISK`
   */
  constructor(dir: string, step: number) {
    const name = `events.out.tfevents.${Math.floor(Date.now() / 1000)}.${os.hostname()}.${process.pid}.${step}`
    this.#file = path.join(dir, name)
    this.#fd = writing(this.#file, () => {
      mkdirSync(dir, { recursive: true })
      return openSync(this.#file, 'a')
    })
    this.#write(0, bytesField(3, Buffer.from('brain.Event:2')))
    this.#write(step, bytesField(7, varintField(1, 1))) // SessionLog.START
  }

  /** @throws {RunError} `E_DISK` */
  scalars(step: number, values: Record<string, number>): void {
    const summary = Object.entries(values).map(([tag, value]) =>
      bytesField(1, Buffer.concat([bytesField(1, Buffer.from(tag)), floatField(2, value)])),
    )
    this.#write(step, bytesField(5, Buffer.concat(summary)))
  }

  close(): void {
    closeSync(this.#fd)
  }

  #write(step: number, what: Buffer): void {
    const wallTime = doubleField(1, Date.now() / 1000)
    // zeros are not written
    const event = Buffer.concat(step === 0 ? [wallTime, what] : [wallTime, varintField(2, step), what])
    writing(this.#file, () => writeFully(this.#fd, tfRecord(event)))
  }
}

/** Length, its checksum, data, their checksum. */
function tfRecord(data: Buffer): Buffer {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(data.length))
  return Buffer.concat([length, maskedCrc(length), data, maskedCrc(data)])
}

function maskedCrc(bytes: Buffer): Buffer {
  const crc = crc32c(bytes)
  const masked = Buffer.alloc(4)
  masked.writeUInt32LE((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0)
  return masked
}

/** CRC-32C (Castagnoli); zlib has the other polynomial. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) crc = (crc >>> 8) ^ crcTable[(crc ^ byte) & 0xff]!
  return ~crc >>> 0
}

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc
})

// Protocol buffers: a field is its number and wire type, then the value

const key = (field: number, wireType: 0 | 1 | 2 | 5) => varint(field * 8 + wireType)
const varintField = (field: number, value: number) => Buffer.concat([key(field, 0), varint(value)])
const bytesField = (field: number, value: Buffer) => Buffer.concat([key(field, 2), varint(value.length), value])

function doubleField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeDoubleLE(value)
  return Buffer.concat([key(field, 1), bytes])
}

function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return Buffer.concat([key(field, 5), bytes])
}

/** Seven bits a byte, the lowest first; a set high bit says that more follow. */
function varint(value: number): Buffer {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest])
    bytes.push((rest % 128) | 128)
  }
}
