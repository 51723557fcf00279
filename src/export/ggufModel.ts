import path from 'node:path'
import { ModelError } from '../errors.ts'
import { checkpointRow, isPermuted, ropeFactorsName, toGgufName } from '../formats/gguf/names.ts'
import { llama3Factors } from '../formats/gguf/ropeFactors.ts'
import { type TensorType, tensorTypes } from '../formats/gguf/tensorTypes.ts'
import { type GgufEntry, type GgufEntryValue, writeGguf } from '../formats/gguf/write.ts'
import { type Adapter, scaleOf } from '../lora/adapter.ts'
import { mergeInFloat32, requireMergeable } from '../lora/merge.ts'
import { expectedTensors, type LlamaConfig } from '../model/config.ts'
import type { OpenCheckpoint } from '../model/open.ts'
import { readTensor } from '../model/weights.ts'
import { gatherRows } from '../native/gather.ts'
import { cpu } from '../tensor/device.ts'
import { type Tensor, tensorFrom } from '../tensor/tensor.ts'
import { type ExportType, encode, exportTypes } from './encode.ts'
import { architectureOf, metadataOf } from './metadata.ts'
import { vocabularyOf } from './vocabulary.ts'

/** `general.file_type`: what most of the weights are in. */
const fileTypes: Record<ExportType, number> = { f32: 0, f16: 1, q8_0: 7, bf16: 32 }
/** Elements that are converted at once. */
const chunkElements = 1 << 22

/**
 * Writes a model, with `adapter` merged into its weights where one is given, as one GGUF file that llama.cpp and Ollama load:
 * matrices in `type`, norms in f32. An adapter is added in f32 and rounded once. Takes the host memory of one weight.
 * @throws {ModelError} `E_MODEL`: the model is pruned, so its layers differ in width; `E_NONFINITE`: a weight does not fit f16
 * @throws {AdapterError} as `merge`
 * @throws {DataError} `E_TOKENIZER`: as {@link vocabularyOf}
 */
export function writeGgufModel(
  source: OpenCheckpoint,
  adapter: Adapter | undefined,
  type: ExportType,
  file: string,
): void {
  const { checkpoint, config } = source
  requireEqualLayers(source)
  if (adapter) requireMergeable(checkpoint, adapter)
  const architecture = architectureOf(config)
  const metadata = new Map<string, GgufEntryValue>([
    ['general.architecture', architecture],
    ['general.type', 'model'],
    ['general.name', path.basename(path.resolve(checkpoint.dir), '.gguf')],
    ['general.file_type', { u32: fileTypes[type] }],
    ['general.quantization_version', { u32: 2 }],
    ...metadataOf(config),
    ...vocabularyOf(checkpoint.dir, config.vocabSize),
  ])
  const weights = new Map(Array.from(expectedTensors(config), ([name, shape]) => [toGgufName(name), { name, shape }]))
  const entries = Array.from(
    weights,
    ([ggufName, { shape }]): GgufEntry => ({
      name: ggufName,
      shape,
      type: typeFor(shape, exportTypes[type]),
    }),
  )
  const factors = ropeFactors(config)
  if (factors) entries.unshift({ name: ropeFactorsName, shape: [factors.length], type: tensorTypes.F32 })
  const types = new Map(entries.map((entry) => [entry.name, entry.type]))

  writeGguf(file, metadata, entries, function* (ggufName) {
    if (ggufName === ropeFactorsName) {
      yield new Uint8Array(factors!.buffer)
      return
    }
    const { name } = weights.get(ggufName)!
    const module = adapter?.modules.get(name.replace(/\.weight$/, ''))
    const stored = readTensor(checkpoint, name, cpu)
    const weight = module ? mergeInFloat32(stored, module, scaleOf(adapter!)) : stored
    const permuted = isPermuted(architecture, name) ? permuteRows(weight, config.headDim) : weight
    yield* encodedRows(permuted, types.get(ggufName)!, name)
    stored.dispose()
  })
}

/** GGUF files say once for all layers how wide they are and how far they see. */
function requireEqualLayers({ checkpoint, config }: OpenCheckpoint): void {
  const { intermediateSize, numKeyValueHeads, attentionWindows } = config
  const refuse = (expected: string, remedy: string) =>
    new ModelError('E_MODEL', 'the model cannot be exported', { file: checkpoint.dir, expected, remedy })
  const narrow = config.layers.some(
    (layer) => layer.intermediateSize !== intermediateSize || layer.numKeyValueHeads !== numKeyValueHeads,
  )
  if (narrow) throw refuse('layers of one width', 'export the original model with the recovered adapter')
  // of families that may have a window the files do not say whether it is used
  if (config.modelType === 'mistral' || attentionWindows.every((window) => window === 0)) return
  throw refuse('no sliding window', 'set use_sliding_window to false, for texts within the window')
}

/** Vectors stay in f32; rows that Q8_0 cannot cut into blocks go to f16, as in llama.cpp. */
function typeFor(shape: readonly number[], type: TensorType): TensorType {
  if (shape.length === 1) return tensorTypes.F32
  return shape.at(-1)! % type.blockElements === 0 ? type : tensorTypes.F16
}

function ropeFactors({ ropeTheta, headDim, ropeScaling: scaling }: LlamaConfig): Float32Array | undefined {
  if (scaling.type !== 'llama3') return undefined
  return llama3Factors(ropeTheta, headDim, {
    factor: scaling.factor,
    low_freq_factor: scaling.lowFreqFactor,
    high_freq_factor: scaling.highFreqFactor,
    original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
  })
}

function permuteRows(weight: Tensor, headDim: number): Tensor {
  const order = Int32Array.from({ length: weight.shape[0]! }, (_, row) => checkpointRow(row, headDim))
  return gatherRows(weight, tensorFrom(cpu, order))
}

function* encodedRows(weight: Tensor, type: TensorType, name: string): Iterable<Uint8Array> {
  if (weight.shape.length === 1) {
    yield encode(weight, type, name)
    return
  }
  const [rows, columns] = weight.shape as [number, number]
  const step = Math.max(1, Math.floor(chunkElements / columns))
  for (let row = 0; row < rows; row += step) yield encode(weight.rows(row, Math.min(rows, row + step)), type, name)
}
