import { checkpointRow, isPermuted, toGgufName } from '../formats/gguf/names.ts'
import { tensorTypes } from '../formats/gguf/tensorTypes.ts'
import { type GgufEntryValue, writeGguf } from '../formats/gguf/write.ts'
import { type Adapter, type Matrix, scaleOf } from '../lora/adapter.ts'
import { requireMergeable } from '../lora/merge.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import { architectureOf } from './metadata.ts'

/**
 * Writes an adapter as the GGUF file that llama.cpp's `--lora` and Ollama's ADAPTER take, in f32. llama.cpp knows no rsLoRA:
 * alpha is written such that alpha / rank is the adapter's own scale.
 * @throws {AdapterError} `E_ADAPTER_BASE`: it does not belong to the model; `E_ADAPTER`: it adapts a head that is the
 *   embedding, for which llama.cpp has no tensor
 */
export function writeGgufAdapter({ checkpoint, config }: OpenCheckpoint, adapter: Adapter, file: string): void {
  requireMergeable(checkpoint, adapter)
  const architecture = architectureOf(config)
  const metadata = new Map<string, GgufEntryValue>([
    ['general.architecture', architecture],
    ['general.type', 'adapter'],
    ['general.file_type', { u32: 0 }],
    ['adapter.type', 'lora'],
    ['adapter.lora.alpha', { f32: scaleOf(adapter) * adapter.rank }],
  ])
  const matrices = new Map<string, Matrix>()
  for (const [module, { a, b }] of adapter.modules) {
    const name = `${module}.weight`
    matrices.set(`${toGgufName(name)}.lora_a`, a)
    matrices.set(`${toGgufName(name)}.lora_b`, isPermuted(architecture, name) ? permuteRows(b, config.headDim) : b)
  }
  const entries = Array.from(matrices, ([name, { shape }]) => ({ name, shape, type: tensorTypes.F32 }))
  writeGguf(file, metadata, entries, (name) => {
    const { data } = matrices.get(name)!
    return [new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]
  })
}

function permuteRows({ shape, data }: Matrix, headDim: number): Matrix {
  const [rows, columns] = shape
  const permuted = new Float32Array(data.length)
  for (let row = 0; row < rows; row++) {
    const from = checkpointRow(row, headDim) * columns
    permuted.set(data.subarray(from, from + columns), row * columns)
  }
  return { shape, data: permuted }
}
