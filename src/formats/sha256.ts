import { createHash } from 'node:crypto'
import { readSync } from 'node:fs'

const chunkBytes = 2 ** 20

/** SHA-256 of the first `length` bytes of a file, or of what there is, read piece by piece. */
export function sha256(fd: number, length: number): Buffer {
  const hash = createHash('sha256')
  const chunk = new Uint8Array(chunkBytes)
  for (let at = 0; at < length; ) {
    const count = readSync(fd, chunk, 0, Math.min(chunkBytes, length - at), at)
    if (count === 0) break
    hash.update(chunk.subarray(0, count))
    at += count
  }
  return hash.digest()
}
