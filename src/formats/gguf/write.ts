import { FileError } from '../../errors.ts'
import { replaceFile, writeFully } from '../atomic.ts'
import { bytesOfTensor, defaultAlignment, magic } from './file.ts'
import type { TensorType } from './tensorTypes.ts'

/** Metadata to write; numbers say as what. */
export type GgufEntryValue =
  | string
  | boolean
  | readonly string[]
  | { u32: number }
  | { f32: number }
  | { i32s: readonly number[] }
  | { f32s: readonly number[] }

/** A tensor to write, with its rows in the order of the file. */
export interface GgufEntry {
  name: string
  type: TensorType
  shape: readonly number[]
}

const version = 3

/**
 * Writes a GGUF file atomically. `data` is asked for each tensor in the order of `entries` and may give its bytes in pieces.
 * @throws {RunError} `E_DISK`. Whatever is thrown, also by `data`: the old file is as it was and no temporary file remains.
 */
export function writeGguf(
  file: string,
  metadata: ReadonlyMap<string, GgufEntryValue>,
  entries: readonly GgufEntry[],
  data: (name: string) => Iterable<Uint8Array>,
): void {
  replaceFile(file, (fd) => {
    writeFully(fd, formatHeader(metadata, entries))
    for (const entry of entries) {
      let written = 0
      for (const piece of data(entry.name)) {
        writeFully(fd, piece)
        written += piece.length
      }
      const wanted = bytesOfEntry(entry)
      if (written !== wanted) throw wrongLength(file, entry, wanted, written)
      writeFully(fd, new Uint8Array(padded(wanted) - wanted))
    }
  })
}

function wrongLength(file: string, { name, type, shape }: GgufEntry, wanted: number, found: number): FileError {
  return new FileError('E_OFFSETS', `the data of a tensor for ${file} does not have the length of its shape`, {
    tensor: name,
    expected: `${wanted} bytes: ${type.name} [${shape.join(', ')}]`,
    found: `${found} bytes`,
  })
}

const padded = (bytes: number) => Math.ceil(bytes / defaultAlignment) * defaultAlignment

function bytesOfEntry({ type, shape }: GgufEntry): number {
  return bytesOfTensor({ shape: [...shape], rowBytes: (shape.at(-1)! / type.blockElements) * type.blockBytes })
}

function formatHeader(metadata: ReadonlyMap<string, GgufEntryValue>, entries: readonly GgufEntry[]): Uint8Array {
  const parts = [Buffer.from(magic), u32(version), u64(entries.length), u64(metadata.size)]
  for (const [key, value] of metadata) parts.push(string(key), ...formatValue(value))
  let offset = 0
  for (const entry of entries) {
    const { name, type, shape } = entry
    parts.push(string(name), u32(shape.length), ...shape.toReversed().map(u64), u32(type.id), u64(offset))
    offset += padded(bytesOfEntry(entry))
  }
  const header = Buffer.concat(parts)
  return Buffer.concat([header, Buffer.alloc(padded(header.length) - header.length)])
}

function formatValue(value: GgufEntryValue): Buffer[] {
  if (typeof value === 'string') return [u32(8), string(value)]
  if (typeof value === 'boolean') return [u32(7), Buffer.of(value ? 1 : 0)]
  if ('u32' in value) return [u32(4), u32(value.u32)]
  if ('f32' in value) return [u32(6), Buffer.from(Float32Array.of(value.f32).buffer)]
  if ('i32s' in value) return [u32(9), u32(5), u64(value.i32s.length), Buffer.from(Int32Array.from(value.i32s).buffer)]
  if ('f32s' in value)
    return [u32(9), u32(6), u64(value.f32s.length), Buffer.from(Float32Array.from(value.f32s).buffer)]
  return [u32(9), u32(8), u64(value.length), ...value.map(string)]
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function string(text: string): Buffer {
  const bytes = Buffer.from(text)
  return Buffer.concat([u64(bytes.length), bytes])
}
