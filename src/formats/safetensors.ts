import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs'
import { type ErrorDetails, FileError, ModelError, messageOf } from '../errors.ts'
import { bytesPerElement, type DType, dtypes, elements } from '../tensor/dtype.ts'
import { replaceFile, writeFully } from './atomic.ts'
import { reading } from './disk.ts'
import { JsonCursor } from './json.ts'

/** What a file says about a tensor. `bytes` is the length of its data: row-major, little-endian. */
export interface TensorInfo {
  dtype: DType
  shape: number[]
  bytes: number
}

/** Named tensors on disk. Nothing of their data is held in memory. */
export interface TensorSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** All bytes of a tensor, in a buffer of their own. */
  read(name: string): Uint8Array<ArrayBuffer>
  /** Fills `target` with the bytes of a tensor from byte `from` on, so that large tensors can be taken in pieces. */
  readInto(name: string, target: Uint8Array, from?: number): void
  /** Closes the files; nothing can be read after it. */
  close(): void
}

export interface SafetensorsFile extends TensorSource {
  readonly metadata: Readonly<Record<string, string>>
}

/** A tensor to write. */
export interface TensorEntry {
  name: string
  dtype: DType
  shape: readonly number[]
}

/** Where the tensor lies: `begin` and `end` count from the end of the header. */
interface Located extends TensorInfo {
  begin: number
  end: number
}

interface Header {
  metadata: Record<string, string>
  tensors: Map<string, Located>
}

const prefixBytes = 8
/** The limit that the reference implementation sets. */
const largestHeader = 100_000_000
/** As many as PyTorch allows. */
const mostDimensions = 64
/** Linux reads at most 2 GiB less a page at a time. */
const largestRead = 2 ** 30
const reservedNames = ['__metadata__', '__proto__']

/**
 * Opens a safetensors file and checks all of its header against the file's length; no data is read.
 * Format: https://github.com/huggingface/safetensors, here with the dtypes F32, BF16, F16, U8, I32 and I64.
 * @throws {FileError} `E_FILE`, `E_TRUNCATED`, `E_HEADER`, `E_OFFSETS`
 * @throws {ModelError} `E_DTYPE`: a tensor has another dtype.
 */
export function openSafetensors(file: string): SafetensorsFile {
  const isFile = reading(file, () => statSync(file).isFile())
  if (!isFile) throw new FileError('E_FILE', `${file} is not a regular file`, { file })
  const fd = reading(file, () => openSync(file, 'r'))
  try {
    const size = reading(file, () => fstatSync(fd).size)
    const text = readHeader(fd, file, size)
    const { metadata, tensors } = parseHeader(text, file)
    const dataStart = prefixBytes + text.length
    checkOffsets(tensors, dataStart, size, file)

    const readInto = (name: string, target: Uint8Array, from = 0) => {
      const { begin, bytes } = find(tensors, name, file)
      if (from + target.length > bytes) throw new RangeError(`${name} has ${bytes} bytes, not ${from + target.length}`)
      readFully(fd, file, target, dataStart + begin + from)
    }
    const read = (name: string) => {
      const target = new Uint8Array(find(tensors, name, file).bytes)
      readInto(name, target)
      return target
    }
    return { metadata, tensors, read, readInto, close: () => closeSync(fd) }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/**
 * Writes a safetensors file atomically. Tensors come in the order of `entries`, those with larger elements first so that all
 * are aligned; `data` is asked for each in that order and may give its bytes in pieces.
 * @throws {FileError} `E_HEADER`: two entries have one name, or a reserved one. `E_OFFSETS`: `data` gave another length.
 * @throws {RunError} `E_DISK`. Whatever is thrown, also by `data`: the old file is as it was and no temporary file remains.
 */
export function writeSafetensors(
  file: string,
  entries: readonly TensorEntry[],
  data: (name: string) => Uint8Array | Iterable<Uint8Array>,
  metadata: Record<string, string> = { format: 'pt' },
): void {
  const ordered = [...entries].sort((a, b) => bytesPerElement[b.dtype] - bytesPerElement[a.dtype])
  const header = formatHeader(ordered, metadata, file)
  replaceFile(file, (fd) => {
    writeFully(fd, header)
    for (const entry of ordered) writeTensor(fd, file, entry, data(entry.name))
  })
}

function writeTensor(fd: number, file: string, entry: TensorEntry, data: Uint8Array | Iterable<Uint8Array>): void {
  let written = 0
  for (const piece of data instanceof Uint8Array ? [data] : data) {
    writeFully(fd, piece)
    written += piece.length
  }
  const wanted = bytesOf(entry)
  if (written === wanted) return
  throw new FileError('E_OFFSETS', `the data of a tensor for ${file} does not have the length of its shape`, {
    tensor: entry.name,
    expected: `${wanted} bytes: ${entry.dtype} [${entry.shape.join(', ')}]`,
    found: `${written} bytes`,
  })
}

function formatHeader(entries: readonly TensorEntry[], metadata: Record<string, string>, file: string): Uint8Array {
  const header = new Map<string, unknown>(Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : [])
  let begin = 0
  for (const { name, dtype, shape } of entries) {
    if (header.has(name) || reservedNames.includes(name)) {
      throw new FileError('E_HEADER', `${file} cannot hold this tensor`, { tensor: name, found: 'a name in use' })
    }
    const end = begin + bytesOf({ dtype, shape })
    header.set(name, { dtype: dtype.toUpperCase(), shape, data_offsets: [begin, end] })
    begin = end
  }
  const text = Buffer.from(JSON.stringify(Object.fromEntries(header)))
  const padded = Buffer.alloc(prefixBytes + Math.ceil(text.length / 8) * 8, ' ')
  padded.writeBigUInt64LE(BigInt(padded.length - prefixBytes))
  text.copy(padded, prefixBytes)
  return padded
}

function readHeader(fd: number, file: string, size: number): Uint8Array {
  requireBytes(file, prefixBytes, size)
  const prefix = Buffer.alloc(prefixBytes)
  readFully(fd, file, prefix, 0)
  const length = prefix.readBigUInt64LE()
  if (length < 2n || length > BigInt(largestHeader)) {
    throw new FileError('E_HEADER', `${file} is not a safetensors file`, {
      file,
      expected: `a header of 2 to ${largestHeader} bytes`,
      found: `${length} bytes`,
      // What stays behind where Git LFS is not installed: "version https://git-lfs.github.com/spec/v1 ..."
      remedy: prefix.equals(Buffer.from('version '))
        ? 'this is a Git LFS pointer: run git lfs pull'
        : 'download it again',
    })
  }
  const text = new Uint8Array(Number(length))
  requireBytes(file, prefixBytes + text.length, size)
  readFully(fd, file, text, prefixBytes)
  return text
}

function parseHeader(text: Uint8Array, file: string): Header {
  const header: Header = { metadata: {}, tensors: new Map() }
  try {
    if (text[0] !== '{'.charCodeAt(0)) throw new SyntaxError('it does not begin with {')
    const json = new JsonCursor(text)
    json.object((name) => {
      if (name === '__metadata__') header.metadata = parseMetadata(json)
      else if (reservedNames.includes(name)) throw new SyntaxError(`${name} is not a name for a tensor`)
      else header.tensors.set(name, parseTensor(json, name, file))
    })
    json.end()
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause
    throw new FileError('E_HEADER', `the header of ${file} is damaged`, { file, found: messageOf(cause), cause })
  }
  return header
}

function parseMetadata(json: JsonCursor): Record<string, string> {
  const entries: [string, string][] = []
  json.object((key) => entries.push([key, json.string()]))
  return Object.fromEntries(entries)
}

function parseTensor(json: JsonCursor, name: string, file: string): Located {
  let dtypeName: string | undefined
  let shape: number[] | undefined
  let offsets: number[] | undefined
  json.object((key) => {
    if (key === 'dtype') dtypeName = json.string()
    else if (key === 'shape') shape = parseIntegers(json, mostDimensions)
    else if (key === 'data_offsets') offsets = parseIntegers(json, 2)
    else json.skip()
  })
  const [begin, end] = offsets ?? []
  if (dtypeName === undefined || shape === undefined || begin === undefined || end === undefined) {
    throw new SyntaxError(`${shorten(name)} lacks dtype, shape or data_offsets`)
  }
  const dtype = dtypes.find((known) => known.toUpperCase() === dtypeName)
  if (dtype === undefined) {
    throw new ModelError('E_DTYPE', `${file} has a tensor of a dtype that loram does not read`, {
      file,
      tensor: shorten(name),
      expected: dtypes.map((known) => known.toUpperCase()).join(', '),
      found: shorten(dtypeName),
      remedy: 'convert the checkpoint to BF16, F16 or F32',
    })
  }
  return { dtype, shape, bytes: bytesOf({ dtype, shape }), begin, end }
}

function parseIntegers(json: JsonCursor, most: number): number[] {
  const integers: number[] = []
  json.array(() => {
    if (integers.push(json.integer()) > most) throw new SyntaxError(`a list has more than ${most} numbers`)
  })
  return integers
}

/** The data must fill the file without overlaps and holes: no two tensors share bytes, and no byte is hidden. */
function checkOffsets(tensors: Map<string, Located>, dataStart: number, size: number, file: string): void {
  const fail = (details: ErrorDetails) => {
    throw new FileError('E_OFFSETS', `the offsets in ${file} are wrong`, { file, ...details })
  }
  let filled = 0
  const ordered = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
  for (const [name, { dtype, shape, bytes, begin, end }] of ordered) {
    const tensor = shorten(name)
    const what = `${dtype} [${shape.join(', ')}]`
    if (![...shape, bytes, begin, end].every((n) => Number.isSafeInteger(n) && n >= 0)) {
      fail({ tensor, expected: 'sizes and offsets from 0 to 2^53 - 1', found: `${what} from ${begin} to ${end}` })
    }
    if (begin !== filled) fail({ tensor, expected: `data from byte ${filled} on`, found: `from byte ${begin} on` })
    if (end - begin !== bytes) fail({ tensor, expected: `${bytes} bytes: ${what}`, found: `${end - begin} bytes` })
    filled = end
  }
  requireBytes(file, dataStart + filled, size)
  if (dataStart + filled < size) fail({ expected: `${dataStart + filled} bytes`, found: `${size} bytes` })
}

function requireBytes(file: string, wanted: number, actual: number): void {
  if (actual >= wanted) return
  throw new FileError('E_TRUNCATED', `${file} is cut short`, {
    file,
    expected: `${wanted} bytes`,
    found: `${actual} bytes`,
    remedy: 'download or copy it again',
  })
}

/** Fills `target` from byte `position` of a file on. */
export function readFully(fd: number, file: string, target: Uint8Array, position: number): void {
  for (let at = 0; at < target.length; ) {
    const wanted = Math.min(largestRead, target.length - at)
    const count = reading(file, () => readSync(fd, target, at, wanted, position + at))
    if (count === 0) requireBytes(file, position + target.length, position + at)
    at += count
  }
}

function find(tensors: Map<string, Located>, name: string, file: string): Located {
  const tensor = tensors.get(name)
  if (tensor === undefined) throw new ModelError('E_SHAPE', `${file} lacks a tensor`, { file, tensor: name })
  return tensor
}

/** Length of the data of a tensor. */
export function bytesOf({ dtype, shape }: Pick<TensorEntry, 'dtype' | 'shape'>): number {
  return elements(shape) * bytesPerElement[dtype]
}

/** Names come from the file, where they can be of any length. */
function shorten(name: string): string {
  return name.length > 80 ? `${name.slice(0, 80)}…` : name
}
