import { ModelError } from '../../errors.ts'
import type { Checkpoint } from '../huggingFace.ts'
import { bytesOf, type TensorInfo } from '../safetensors.ts'
import { architectureOf, configOf } from './config.ts'
import { type GgufFile, type GgufTensor, openGguf } from './file.ts'
import { fileRow, fromGgufName, isPermuted, ropeFactorsName } from './names.ts'
import { decodedRowBytes, rowReader } from './rows.ts'

/**
 * A GGUF file as the checkpoint it was made from: Hugging Face names, rows in their order, quantised weights in bf16. Rows
 * are decoded as they are read; the file is never in memory.
 * @throws {FileError} as {@link openGguf}
 * @throws {ModelError} `E_MODEL`: as {@link configOf}, or it has a tensor that Llama-like models do not have
 */
export function openGgufCheckpoint(file: string): Checkpoint {
  const gguf = openGguf(file)
  try {
    const configJson = configOf(gguf)
    const held = tensorsByName(gguf)
    const tensors = new Map(Array.from(held, ([name, tensor]) => [name, infoOf(tensor)]))
    const rowOf = (name: string) => {
      const permuted = isPermuted(architectureOf(gguf.metadata), name)
      return permuted ? (row: number) => fileRow(row, Number(configJson.head_dim)) : (row: number) => row
    }
    const readInto = (name: string, target: Uint8Array, from = 0) =>
      readRows(gguf, required(held, name, file), rowOf(name), target, from)
    const read = (name: string) => {
      const target = new Uint8Array(infoOf(required(held, name, file)).bytes)
      readInto(name, target)
      return target
    }
    return { dir: file, configJson, configFile: file, tensors, read, readInto, close: gguf.close }
  } catch (error) {
    gguf.close()
    throw error
  }
}

function tensorsByName({ tensors, file }: GgufFile): Map<string, GgufTensor> {
  const held = new Map<string, GgufTensor>()
  for (const [ggufName, tensor] of tensors) {
    if (ggufName === ropeFactorsName) continue
    const name = fromGgufName(ggufName)
    if (name === undefined) {
      const details = { file, tensor: ggufName, expected: 'the tensors of Llama and models built like it' }
      throw new ModelError('E_MODEL', `${file} is not a model that loram can run`, details)
    }
    held.set(name, tensor)
  }
  return held
}

function infoOf({ shape, type: { dtype } }: GgufTensor): TensorInfo {
  return { dtype, shape, bytes: bytesOf({ dtype, shape }) }
}

function required(tensors: ReadonlyMap<string, GgufTensor>, name: string, file: string): GgufTensor {
  const tensor = tensors.get(name)
  if (tensor === undefined) throw new ModelError('E_SHAPE', `${file} lacks a tensor`, { file, tensor: name })
  return tensor
}

/** Fills `target` with the decoded bytes of a tensor from byte `from` on; `rowOf` says which row of the file a row is. */
function readRows(
  gguf: GgufFile,
  tensor: GgufTensor,
  rowOf: (row: number) => number,
  target: Uint8Array,
  from: number,
): void {
  const bytes = decodedRowBytes(tensor)
  const readRow = rowReader(gguf, tensor)
  for (let at = 0; at < target.length; ) {
    const row = Math.floor((from + at) / bytes)
    const skip = (from + at) % bytes
    const piece = readRow(rowOf(row)).subarray(skip, skip + target.length - at)
    target.set(piece, at)
    at += piece.length
  }
}
