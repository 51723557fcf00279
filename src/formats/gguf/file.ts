import { closeSync, fstatSync, openSync } from 'node:fs'
import { FileError } from '../../errors.ts'
import { elements } from '../../tensor/dtype.ts'
import { reading } from '../disk.ts'
import { readFully } from '../safetensors.ts'
import { GgufCursor, type GgufValue } from './cursor.ts'
import { nameOfType, type TensorType, tensorTypeOf, tensorTypes } from './tensorTypes.ts'

export type GgufMetadata = ReadonlyMap<string, GgufValue>

/** A tensor as it lies in the file: `shape` as everywhere in loram, the rows of its last dimension one after another. */
export interface GgufTensor {
  type: TensorType
  shape: number[]
  /** Of one row. */
  rowBytes: number
  /** From the start of the file. */
  offset: number
}

export interface GgufFile {
  readonly file: string
  readonly metadata: GgufMetadata
  readonly tensors: ReadonlyMap<string, GgufTensor>
  /** The bytes of row `row` of a tensor, over `target`. */
  readRow(tensor: GgufTensor, row: number, target: Uint8Array): void
  close(): void
}

export const magic = 'GGUF'
export const defaultAlignment = 32
const mostDimensions = 4
const largestAlignment = 1 << 16

export const isGguf = (model: string): boolean => model.endsWith('.gguf')

/**
 * Opens a GGUF file of version 2 or 3 and checks all of its header against the file's length; no tensor is read.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 * @throws {FileError} `E_FILE`; `E_GGUF`: the header is damaged, or a tensor is of a type that loram does not read;
 *   `E_TRUNCATED`: a tensor lies beyond the end.
 */
export function openGguf(file: string): GgufFile {
  const fd = reading(file, () => openSync(file, 'r'))
  try {
    const { size } = reading(file, () => fstatSync(fd))
    const { metadata, tensors } = readHeader(new GgufCursor(fd, file, size), size, file)
    const readRow = ({ offset, rowBytes }: GgufTensor, row: number, target: Uint8Array) => {
      readFully(fd, file, target.subarray(0, rowBytes), offset + row * rowBytes)
    }
    return { file, metadata, tensors, readRow, close: () => closeSync(fd) }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

function readHeader(cursor: GgufCursor, size: number, file: string) {
  if (cursor.bytes(4).toString('latin1') !== magic) throw cursor.error('the first four bytes', 'no GGUF file')
  const version = cursor.u32()
  if (version !== 2 && version !== 3) throw cursor.error('the version', `${version}, where 2 and 3 are read`)
  const tensorCount = cursor.size('the number of tensors')
  const valueCount = cursor.size('the number of metadata values')

  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < valueCount; i++) {
    const key = cursor.string('a key')
    if (metadata.has(key)) throw cursor.error(key, 'it comes twice')
    metadata.set(key, cursor.value(key))
  }
  const alignment = alignmentOf(metadata, cursor)
  const tensors = new Map<string, GgufTensor>()
  for (let i = 0; i < tensorCount; i++) {
    const name = cursor.string('the name of a tensor')
    if (tensors.has(name)) throw cursor.error(name, 'it comes twice')
    tensors.set(name, readTensor(cursor, name, alignment, file))
  }
  const dataStart = Math.ceil(cursor.position / alignment) * alignment
  for (const tensor of tensors.values()) tensor.offset += dataStart
  checkOffsets(tensors, cursor, size, file)
  return { metadata, tensors }
}

function alignmentOf(metadata: GgufMetadata, cursor: GgufCursor): number {
  const alignment = metadata.get('general.alignment') ?? defaultAlignment
  const fits = typeof alignment === 'number' && alignment >= 1 && alignment <= largestAlignment
  if (fits && Number.isInteger(Math.log2(alignment))) return alignment
  throw cursor.error('general.alignment', `${alignment}, where it must be a power of two up to ${largestAlignment}`)
}

function readTensor(cursor: GgufCursor, name: string, alignment: number, file: string): GgufTensor {
  const dimensions = cursor.u32()
  if (dimensions < 1 || dimensions > mostDimensions) throw cursor.error(name, `${dimensions} dimensions`)
  // the file lists the fastest dimension first
  const shape = Array.from({ length: dimensions }, () => Number(cursor.bytes(8).readBigUInt64LE())).reverse()
  const typeId = cursor.u32()
  const type = tensorTypeOf(typeId)
  if (type === undefined) throw unreadableType(file, name, typeId)
  const offset = cursor.size(`the offset of ${name}`)
  const width = shape.at(-1)!
  if (!shape.every((size) => size > 0) || !Number.isSafeInteger(elements(shape) * type.blockBytes)) {
    throw cursor.error(name, `the shape [${shape.join(', ')}]`)
  }
  if (width % type.blockElements !== 0) {
    throw cursor.error(name, `rows of ${width} elements, which ${type.name} has in blocks of ${type.blockElements}`)
  }
  if (offset % alignment !== 0) throw cursor.error(name, `the offset ${offset}, no multiple of ${alignment}`)
  return { type, shape, rowBytes: (width / type.blockElements) * type.blockBytes, offset }
}

function unreadableType(file: string, tensor: string, id: number): FileError {
  return new FileError('E_GGUF', `${file} has a tensor of a type that loram does not read`, {
    file,
    tensor: tensor.slice(0, 80),
    expected: Object.keys(tensorTypes).join(', '),
    found: nameOfType(id),
    remedy: 'take the same model in one of these types; from a full-precision file, llama-quantize makes them',
  })
}

/** No two tensors share bytes, and all lie within the file. */
function checkOffsets(tensors: Map<string, GgufTensor>, cursor: GgufCursor, size: number, file: string): void {
  let filled = 0
  for (const [name, tensor] of [...tensors].sort(([, a], [, b]) => a.offset - b.offset)) {
    if (tensor.offset < filled) throw cursor.error(name, 'it lies over another tensor')
    filled = tensor.offset + bytesOfTensor(tensor)
  }
  if (filled <= size) return
  throw new FileError('E_TRUNCATED', `${file} is cut short`, {
    file,
    expected: `${filled} bytes`,
    found: `${size} bytes`,
    remedy: 'download or copy it again',
  })
}

/** Length of the data of a tensor. */
export const bytesOfTensor = ({ shape, rowBytes }: Pick<GgufTensor, 'shape' | 'rowBytes'>): number =>
  elements(shape.slice(0, -1)) * rowBytes
