/** Parts of GGUF files, valid or not, put together byte by byte. */
export const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
export const i32 = (value: number) => Buffer.from(Int32Array.of(value).buffer)
export const u64 = (value: bigint) => Buffer.from(BigUint64Array.of(value).buffer)
export const string = (text: string) => Buffer.concat([u64(BigInt(Buffer.byteLength(text))), Buffer.from(text)])
export const meta = (key: string, type: number, value: Uint8Array) => Buffer.concat([string(key), u32(type), value])

/** A tensor's entry; its dimensions as the file lists them, the fastest first. */
export function tensor({
  name,
  shape = [8n],
  type = 0,
  offset = 0n,
}: {
  name: string
  shape?: bigint[]
  type?: number
  offset?: bigint
}) {
  return Buffer.concat([string(name), u32(shape.length), ...shape.map(u64), u32(type), u64(offset)])
}

interface Parts {
  version?: number
  values?: Uint8Array[]
  tensors?: Uint8Array[]
  tensorCount?: bigint
  valueCount?: bigint
  /** Bytes after the header. */
  data?: number
}

export function header({
  version = 3,
  values = [],
  tensors = [],
  tensorCount,
  valueCount,
  data = 0,
}: Parts): Uint8Array {
  const counts = [tensorCount ?? BigInt(tensors.length), valueCount ?? BigInt(values.length)]
  const bytes = Buffer.concat([Buffer.from('GGUF'), u32(version), ...counts.map(u64), ...values, ...tensors])
  return Buffer.concat([bytes, Buffer.alloc(Math.ceil(bytes.length / 32) * 32 - bytes.length + data)])
}
