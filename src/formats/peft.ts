import { existsSync } from 'node:fs'
import path from 'node:path'
import { z } from 'zod'
import { AdapterError, FileError } from '../errors.ts'
import { type Adapter, type AdapterModule, type Matrix, scaleOf } from '../lora/adapter.ts'
import { buildFolder, writeFileAtomic } from './atomic.ts'
import { toFloat32 } from './float32.ts'
import { formatJson, type JsonObject, readJsonObject } from './json.ts'
import { openSafetensors, type SafetensorsFile, type TensorEntry, writeSafetensors } from './safetensors.ts'

const configName = 'adapter_config.json'
const weightsName = 'adapter_model.safetensors'
const prefix = 'base_model.model.'

const unset = z.union([z.null(), z.tuple([]), z.strictObject({})], 'not to be set').optional()
const off = z.literal(false).nullish()
const pattern = z.record(z.string().refine(isExpression, 'regular expressions'), z.number().positive()).nullish()

/** What loram reads; each key that would change the mathematics must have the value that leaves it as it is. */
const schema = z.object({
  peft_type: z.literal('LORA'),
  r: z.int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).lt(1).default(0),
  use_rslora: z.boolean().nullish(),
  rank_pattern: pattern,
  alpha_pattern: pattern,
  base_model_name_or_path: z.string().nullish(),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
  bias: z.literal('none').nullish(),
  fan_in_fan_out: off,
  use_dora: off,
  use_qalora: off,
  lora_bias: off,
  modules_to_save: unset,
  layers_to_transform: unset,
  layers_pattern: unset,
  layer_replication: unset,
  trainable_token_indices: unset,
  target_parameters: unset,
})
type PeftConfig = z.infer<typeof schema>

function isExpression(text: string): boolean {
  try {
    new RegExp(text)
    return true
  } catch {
    return false
  }
}

/** Metadata of adapter_model.safetensors that says which weights an adapter belongs to; other programs ignore it. */
const baseKey = 'loram.base'
const pruningKey = 'loram.pruning'

/** Initialisations that leave the base model's weights as they were. */
const plainInitialisations = ['gaussian', 'eva', 'orthogonal']

/**
 * Reads a LoRA adapter as PEFT writes it. Its matrices are widened to float32; ranks and alphas that differ between modules
 * (`rank_pattern`, `alpha_pattern`) become one by padding with zeros, which changes no result.
 * @throws {AdapterError} `E_ADAPTER`: it adapts nothing, its tensors do not fit its config, or it is of a kind other than plain LoRA.
 * @throws {FileError} `E_FILE`: files are missing, or only a pickle is there. And all that `openSafetensors` throws.
 */
export function readAdapter(dir: string): Adapter {
  const { config: json, weights: source } = openAdapterFiles(dir)
  try {
    const config = parseConfig(json, path.join(dir, configName))
    const file = path.join(dir, weightsName)
    const { [baseKey]: base, [pruningKey]: pruning } = source.metadata
    return {
      ...unify(readModules(source, file), config, file),
      ...(base !== undefined && { base }),
      ...(pruning !== undefined && { pruning }),
    }
  } finally {
    source.close()
  }
}

/** An adapter's configuration and the header of its weights, whatever they say. */
export function openAdapterFiles(dir: string): { config: JsonObject; weights: SafetensorsFile } {
  const config = readJsonObject(path.join(dir, configName))
  const file = path.join(dir, weightsName)
  if (!existsSync(file)) throw noWeights(dir)
  return { config, weights: openSafetensors(file) }
}

/**
 * Writes an adapter that PEFT, transformers, vLLM and llama.cpp's converter load: F32 tensors and a minimal config. A folder that
 * exists keeps its other files.
 * @param extra  More files for the folder, text by name.
 * @throws {RunError} `E_DISK`
 */
export function writeAdapter(dir: string, adapter: Adapter, extra: Readonly<Record<string, string>> = {}): void {
  const matrices = new Map<string, Matrix>()
  for (const [module, { a, b }] of adapter.modules) {
    matrices.set(`${prefix}${module}.lora_A.weight`, a).set(`${prefix}${module}.lora_B.weight`, b)
  }
  const entries = [...matrices].map(([name, { shape }]): TensorEntry => ({ name, dtype: 'f32', shape }))
  buildFolder(dir, (folder) => {
    writeSafetensors(path.join(folder, weightsName), entries, (name) => bytesOfMatrix(matrices.get(name)!), {
      format: 'pt',
      ...(adapter.base !== undefined && { [baseKey]: adapter.base }),
      ...(adapter.pruning !== undefined && { [pruningKey]: adapter.pruning }),
    })
    writeFileAtomic(path.join(folder, configName), formatJson(configOf(adapter)))
    for (const [name, text] of Object.entries(extra)) writeFileAtomic(path.join(folder, name), text)
  })
}

function configOf({ rank, alpha, dropout, useRslora, baseModel, modules }: Adapter) {
  const lastNames = [...modules.keys()].map((module) => module.slice(module.lastIndexOf('.') + 1))
  return {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: baseModel ?? null,
    inference_mode: true,
    r: rank,
    lora_alpha: alpha,
    lora_dropout: dropout,
    target_modules: [...new Set(lastNames)].sort(),
    bias: 'none',
    fan_in_fan_out: false,
    use_rslora: useRslora,
    use_dora: false,
    modules_to_save: null,
    init_lora_weights: true,
  }
}

function bytesOfMatrix({ data }: Matrix): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

function parseConfig(json: JsonObject, file: string): PeftConfig {
  const { data, error } = schema.safeParse(json)
  if (error !== undefined) {
    const { path: keys, message } = error.issues[0]!
    const field = String(keys[0])
    throw new AdapterError('E_ADAPTER', `${file} describes an adapter that loram cannot use`, {
      file,
      field,
      expected: message,
      found: JSON.stringify(json[field]),
      remedy: 'plain LoRA on linear layers is supported; merge other kinds into the base model with PEFT',
    })
  }
  const init = data.init_lora_weights
  if (typeof init === 'string' && !plainInitialisations.includes(init)) {
    process.emitWarning(
      `${file}: init_lora_weights "${init}" changed the base model; the adapter fits only that changed one`,
    )
  }
  return data
}

function noWeights(dir: string): FileError {
  const isPickle = existsSync(path.join(dir, 'adapter_model.bin'))
  return new FileError('E_FILE', `${dir} has no adapter in safetensors`, {
    file: dir,
    expected: weightsName,
    ...(isPickle && {
      found: 'adapter_model.bin: a pickle, which can run any code when it is read',
      remedy: 'convert it: PeftModel.from_pretrained(base, dir).save_pretrained(new) in Python',
    }),
  })
}

function readModules(source: SafetensorsFile, file: string): Map<string, AdapterModule> {
  const halves = new Map<string, Partial<Record<'A' | 'B', Matrix>>>()
  for (const name of source.tensors.keys()) {
    // PEFT adds the untouched weights of an adapted output head or embedding.
    if (name.includes('.base_layer.')) continue
    const [, module, half] = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name) ?? []
    if (module === undefined || (half !== 'A' && half !== 'B')) {
      throw tensorError(file, name, 'only lora_A.weight and lora_B.weight of linear layers')
    }
    halves.set(module, { ...halves.get(module), [half]: readMatrix(source, name, file) })
  }
  const modules = new Map<string, AdapterModule>()
  for (const [module, { A, B }] of [...halves].sort(([x], [y]) => inLayerOrder.compare(x, y))) {
    if (A === undefined || B === undefined) throw tensorError(file, module, 'lora_A and lora_B')
    if (A.shape[0] !== B.shape[1])
      throw tensorError(file, module, 'one rank', `lora_A ${A.shape[0]}, lora_B ${B.shape[1]}`)
    modules.set(module, { a: A, b: B })
  }
  if (modules.size > 0) return modules
  throw new AdapterError('E_ADAPTER', `${file} adapts no module`, {
    file,
    remedy: 'save the adapter again after training',
  })
}

/** Compares numbers inside of names by value: layer 2 before layer 10. */
const inLayerOrder = new Intl.Collator('en', { numeric: true })

function readMatrix(source: SafetensorsFile, name: string, file: string): Matrix {
  const { dtype, shape } = source.tensors.get(name)!
  const [rows, columns] = shape
  if (rows === undefined || columns === undefined || shape.length > 2) {
    throw tensorError(file, name, 'a matrix', `[${shape.join(', ')}]`)
  }
  if (dtype !== 'f32' && dtype !== 'bf16' && dtype !== 'f16') throw tensorError(file, name, 'f32, bf16 or f16', dtype)
  return { shape: [rows, columns], data: toFloat32(source.read(name), dtype) }
}

function tensorError(file: string, tensor: string, expected: string, found?: string): AdapterError {
  const details = { file, tensor, expected, ...(found !== undefined && { found }) }
  return new AdapterError('E_ADAPTER', `${file} has a tensor that loram cannot use`, details)
}

/** One rank and one alpha for all modules. */
function unify(modules: Map<string, AdapterModule>, config: PeftConfig, file: string): Adapter {
  const useRslora = config.use_rslora ?? false
  const rank = Math.max(...[...modules.values()].map(({ a }) => a.shape[0]))
  const alpha = config.lora_alpha * (useRslora ? Math.sqrt(rank / config.r) : rank / config.r)
  const common = scaleOf({ rank, alpha, useRslora })
  for (const [name, module] of modules) {
    const own = {
      rank: lookUp(config.rank_pattern, name) ?? config.r,
      alpha: lookUp(config.alpha_pattern, name) ?? config.lora_alpha,
    }
    if (module.a.shape[0] !== own.rank) throw tensorError(file, name, `rank ${own.rank}`, `rank ${module.a.shape[0]}`)
    const factor = scaleOf({ ...own, useRslora }) / common
    if (own.rank !== rank || factor !== 1) modules.set(name, widen(module, rank, factor))
  }
  const baseModel = config.base_model_name_or_path
  return { rank, alpha, useRslora, dropout: config.lora_dropout, ...(baseModel != null && { baseModel }), modules }
}

/** The value of the first key that matches the end of a module's path; keys are regular expressions, as in PEFT. */
function lookUp(pattern: Record<string, number> | null | undefined, module: string): number | undefined {
  return Object.entries(pattern ?? {}).find(([key]) => new RegExp(`^(.*\\.)?(${key})$`).test(module))?.[1]
}

/** The same update with more rows of A and columns of B, which are zero, and B times `factor`. */
function widen({ a, b }: AdapterModule, rank: number, factor: number): AdapterModule {
  const [own, inputs] = a.shape
  const outputs = b.shape[0]
  const wideA = new Float32Array(rank * inputs)
  wideA.set(a.data)
  const wideB = new Float32Array(outputs * rank)
  for (let i = 0; i < outputs; i++) {
    for (let j = 0; j < own; j++) wideB[i * rank + j] = b.data[i * own + j]! * factor
  }
  return { a: { shape: [rank, inputs], data: wideA }, b: { shape: [outputs, rank], data: wideB } }
}
