import type { Tensor } from './tensor.ts'

/** 256 MiB. Node reads, hashes and views 2 to 4 GiB at once, and no more. */
const pieceBytes = 2 ** 28

/** The values of an f32 tensor without padding, as bytes, piece by piece. */
export function* readPieces(tensor: Tensor, bytes = pieceBytes): Generator<Uint8Array> {
  const flat = tensor.slice(0, [tensor.elements])
  for (let at = 0; at < flat.elements; at += bytes / 4) {
    yield new Uint8Array(flat.rows(at, Math.min(at + bytes / 4, flat.elements)).read().buffer)
  }
}

/** Fills the first `length` bytes of a tensor, piece by piece. */
export function writePieces(
  tensor: Tensor,
  readInto: (target: Uint8Array, from: number) => void,
  length = tensor.bytes,
  bytes = pieceBytes,
): void {
  for (let at = 0; at < length; at += bytes) {
    const piece = new Uint8Array(Math.min(bytes, length - at))
    readInto(piece, at)
    tensor.write(piece, at)
  }
}
