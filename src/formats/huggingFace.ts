import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import path from 'node:path'
import { type ErrorDetails, FileError, ModelError, messageOf } from '../errors.ts'
import { buildFolder, requireVacant, writeFileAtomic } from './atomic.ts'
import { type CheckpointTensor, readQuantized } from './bitsandbytes.ts'
import { reading } from './disk.ts'
import { openGgufCheckpoint } from './gguf/checkpoint.ts'
import { isGguf } from './gguf/file.ts'
import { ggufTokenizerFiles } from './gguf/tokenizer.ts'
import { formatJson, JsonCursor, type JsonObject, readJsonObject } from './json.ts'
import { formatPruning, type PruningPlan, readPruning } from './pruningJson.ts'
import {
  bytesOf,
  openSafetensors,
  type SafetensorsFile,
  type TensorEntry,
  type TensorSource,
  writeSafetensors,
} from './safetensors.ts'

/** A model on disk: a Hugging Face folder with config.json and safetensors, or a GGUF file that reads as if it were one. */
export interface Checkpoint extends TensorSource {
  /** The folder, or the file. */
  readonly dir: string
  /** Each weight that is quantised with all its parts as one tensor; the parts can be read by their own names. */
  readonly tensors: ReadonlyMap<string, CheckpointTensor>
  /** config.json, without what it says of quantisation. */
  readonly configJson: JsonObject
  /** Where `configJson` was read, for messages. */
  readonly configFile: string
  /** Of a pruned checkpoint: what it keeps of the original. */
  readonly pruning?: PruningPlan
}

const singleFile = 'model.safetensors'
const indexFile = 'model.safetensors.index.json'
const pruningFile = 'pruning.json'

/**
 * Opens a model folder or a GGUF file and checks every file's header; no weights are read. As in transformers, `model.safetensors` wins over an index.
 * @throws {FileError} `E_FILE`: no such folder, or no safetensors in it. `E_PATH`: a shard lies outside. `E_INDEX`: index and
 *   shards disagree. And all that `openSafetensors` throws.
 * @throws {ModelError} `E_MODEL`: config.json is missing. And all that `readQuantized` throws. Of a GGUF file, as `openGgufCheckpoint`.
 * @throws {PlanError} `E_PLAN`: pruning.json is damaged.
 */
export function openCheckpoint(dir: string): Checkpoint {
  if (isGguf(dir)) return openGgufCheckpoint(dir)
  const configFile = path.join(dir, 'config.json')
  const { quantization_config, ...configJson } = readConfig(dir, configFile)
  const pruning = existsSync(path.join(dir, pruningFile)) ? readPruning(path.join(dir, pruningFile)) : undefined
  const source = openWeights(dir)
  try {
    const tensors =
      quantization_config == null ? source.tensors : readQuantized(source, { quantization_config }, configFile)
    return { dir, configJson, configFile, ...source, tensors, ...(pruning && { pruning }) }
  } catch (error) {
    source.close()
    throw error
  }
}

function readConfig(dir: string, file: string): JsonObject {
  if (!existsSync(dir) || !statSync(dir).isDirectory()) {
    throw new FileError('E_FILE', `there is no folder ${dir}`, {
      file: dir,
      expected: 'a folder with config.json and safetensors, or a GGUF file',
      ...(pickle.test(dir) && pickleFound(dir)),
    })
  }
  if (!existsSync(file)) {
    const isAdapter = existsSync(path.join(dir, 'adapter_config.json'))
    const remedy = isAdapter ? 'this is an adapter: pass its base model here' : 'download config.json too'
    throw new ModelError('E_MODEL', `${dir} has no config.json`, { file, remedy })
  }
  return readJsonObject(file)
}

function openWeights(dir: string): TensorSource {
  if (existsSync(path.join(dir, singleFile))) return openSafetensors(inside(dir, singleFile))
  if (existsSync(path.join(dir, indexFile))) return openShards(dir)
  const found = readdirSync(dir).find((name) => pickle.test(name))
  throw new FileError('E_FILE', `${dir} has no weights in safetensors`, {
    file: dir,
    expected: `${singleFile} or ${indexFile}`,
    ...(found !== undefined && pickleFound(found)),
  })
}

const pickle = /\.(bin|pt|pth)$/

const pickleFound = (name: string) => ({
  found: `${name}: a pickle, which can run any code when it is read`,
  remedy: 'convert it: AutoModelForCausalLM.from_pretrained(dir).save_pretrained(new) in Python',
})

function openShards(dir: string): TensorSource {
  const index = path.join(dir, indexFile)
  const fileOf = readWeightMap(index)
  const locations = new Map([...new Set(fileOf.values())].map((file) => [file, inside(dir, file)]))
  const shards = new Map<string, SafetensorsFile>()
  const close = () => {
    for (const shard of shards.values()) shard.close()
  }
  try {
    for (const [file, location] of locations) shards.set(file, openSafetensors(location))
    const holders = assign(shards, fileOf, index)
    const tensors = new Map([...holders].map(([name, shard]) => [name, shard.tensors.get(name)!]))
    const holderOf = (name: string) => {
      const holder = holders.get(name)
      if (holder === undefined) throw new ModelError('E_SHAPE', `${dir} lacks a tensor`, { file: index, tensor: name })
      return holder
    }
    return {
      tensors,
      read: (name) => holderOf(name).read(name),
      readInto: (name, target, from) => holderOf(name).readInto(name, target, from),
      close,
    }
  } catch (error) {
    close()
    throw error
  }
}

/** The shard that holds each tensor, where the index says so. */
function assign(shards: Map<string, SafetensorsFile>, fileOf: Map<string, string>, index: string) {
  const holders = new Map<string, SafetensorsFile>()
  for (const [file, shard] of shards) {
    for (const name of shard.tensors.keys()) {
      if (holders.has(name)) throw indexError(index, { tensor: name, found: `it is in two shards, one is ${file}` })
      holders.set(name, shard)
    }
  }
  for (const [name, file] of fileOf) {
    if (holders.get(name) !== shards.get(file)) throw indexError(index, { tensor: name, found: `it is not in ${file}` })
  }
  return holders
}

/** The file that should hold each tensor. */
function readWeightMap(index: string): Map<string, string> {
  const fileOf = new Map<string, string>()
  const text = reading(index, () => readFileSync(index))
  try {
    const json = new JsonCursor(text)
    json.object((key) => {
      if (key === 'weight_map') json.object((name) => fileOf.set(name, json.string()))
      else json.skip()
    })
    json.end()
  } catch (cause) {
    throw indexError(index, { found: messageOf(cause), cause })
  }
  if (fileOf.size === 0) throw indexError(index, { field: 'weight_map', found: 'no tensors' })
  return fileOf
}

function indexError(index: string, details: ErrorDetails): FileError {
  return new FileError('E_INDEX', `${index} does not describe its shards`, {
    file: index,
    ...details,
    remedy: 'download the whole folder again',
  })
}

/**
 * The path of a weight file, which must be in `dir`: an index or a link from elsewhere may not lead to other files of this
 * machine. Folders of the Hugging Face cache hold links to `../../blobs`; those are let through.
 */
function inside(dir: string, name: string): string {
  const location = path.join(dir, name)
  const refuse = (found: string) => {
    const remedy = 'keep all weights in one folder'
    return new FileError('E_PATH', `${dir} has weights outside`, {
      file: name,
      expected: `a file in ${dir}`,
      found,
      remedy,
    })
  }
  if (!/^[^/\\\0]+$/.test(name)) throw refuse(JSON.stringify(name))
  if (!existsSync(location)) throw indexError(path.join(dir, indexFile), { found: `there is no file ${name}` })
  const target = realpathSync(location)
  const folder = realpathSync(dir)
  const isCache = path.basename(path.dirname(folder)) === 'snapshots'
  const allowed = isCache ? [folder, path.resolve(folder, '../../blobs')] : [folder]
  if (!allowed.some((root) => target.startsWith(root + path.sep))) throw refuse(target)
  return location
}

const mostListed = 10
const embedding = 'model.embed_tokens.weight'

/**
 * Checks a checkpoint against the names and shapes that its model has (`expectedTensors`).
 * @returns A warning for each tensor too many.
 * @throws {ModelError} `E_SHAPE` lists up to ten tensors that are missing or of another shape. `E_DTYPE`: one is no float.
 *   `E_MODEL`: config.json has another vocabulary than the embedding.
 */
export function expectTensors(checkpoint: Checkpoint, expected: ReadonlyMap<string, readonly number[]>): string[] {
  const { tensors, dir, configFile } = checkpoint
  const problems: string[] = []
  for (const [name, shape] of expected) {
    const found = tensors.get(name)
    if (found === undefined) problems.push(`${name} is missing`)
    else if (!equalShapes(found.shape, shape)) {
      if (name === embedding) throw embeddingError(configFile, shape, found.shape)
      problems.push(`${name} is [${found.shape.join(', ')}], not [${shape.join(', ')}]`)
    } else if (!['f32', 'bf16', 'f16'].includes(found.dtype)) {
      throw new ModelError('E_DTYPE', `${dir} has weights that are no floats`, { tensor: name, found: found.dtype })
    }
  }
  if (problems.length > 0) throw shapeError(dir, problems)
  return [...tensors.keys()]
    .filter((name) => !expected.has(name) && !name.endsWith('.rotary_emb.inv_freq'))
    .map((name) => `${dir}: ${name} is not part of the model and was not loaded`)
}

function shapeError(dir: string, problems: string[]): ModelError {
  const more = problems.length > mostListed ? [`and ${problems.length - mostListed} more`] : []
  return new ModelError('E_SHAPE', `the weights in ${dir} are not those of its config.json`, {
    file: dir,
    found: [...problems.slice(0, mostListed), ...more].join('; '),
    remedy: 'take config.json and weights from one model; a pruned one also needs its pruning.json',
  })
}

function embeddingError(file: string, expected: readonly number[], found: readonly number[]): ModelError {
  return new ModelError('E_MODEL', `${file} does not fit the embedding`, {
    file,
    field: 'vocab_size, hidden_size',
    tensor: embedding,
    expected: `[${expected.join(', ')}]`,
    found: `[${found.join(', ')}]`,
  })
}

function equalShapes(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i])
}

const fingerprintBytes = 4096

/**
 * Tells models apart cheaply, also at 140 GB: SHA-256 over the names, dtypes and shapes in order of the names, and the first
 * 4 KiB of each tensor. Fine-tuning or converting a model changes it; re-sharding does not. Damage or edits further inside a tensor
 * go unseen: it is no proof that the files are whole.
 */
export function fingerprint({ tensors, readInto }: TensorSource): string {
  const hash = createHash('sha256')
  for (const name of [...tensors.keys()].sort()) {
    const { dtype, shape, bytes } = tensors.get(name)!
    const start = new Uint8Array(Math.min(bytes, fingerprintBytes))
    readInto(name, start)
    hash.update(JSON.stringify([name, dtype, shape])).update(start)
  }
  return `sha256:${hash.digest('hex')}`
}

export interface NewCheckpoint {
  /** config.json, or its text. */
  configJson: JsonObject | string
  entries: readonly TensorEntry[]
  /** The bytes of a tensor, whole or in pieces; asked for once each. */
  data: (name: string) => Uint8Array | Iterable<Uint8Array>
  pruning?: PruningPlan
  /** A model whose tokenizer, chat template and generation settings are copied. */
  copyFrom?: string
  /** A shard ends before it grows beyond this, unless a single tensor does. Default 5e9, as in transformers 4. */
  maxShardBytes?: number
}

const companions =
  /^(tokenizer.*\.(json|model)|(special_tokens_map|added_tokens|generation_config)\.json|chat_template\.jinja)$/

/**
 * Writes a model folder; it appears under its name when it is complete.
 * @throws {FileError} `E_FILE`: `dir` holds files already.
 * @throws {RunError} `E_DISK`. Whatever is thrown, also by `data`: nothing of the folder remains.
 */
export function writeCheckpoint(dir: string, checkpoint: NewCheckpoint): void {
  const { configJson, entries, data, pruning, copyFrom, maxShardBytes = 5e9 } = checkpoint
  requireVacant(dir)
  buildFolder(dir, (folder) => {
    const write = (name: string, content: string | Uint8Array) => writeFileAtomic(path.join(folder, name), content)
    write('config.json', typeof configJson === 'string' ? configJson : formatJson(configJson))
    if (pruning !== undefined) write(pruningFile, formatPruning(pruning))
    if (copyFrom !== undefined) for (const [name, content] of companionsOf(copyFrom)) write(name, content)
    const shards = cutIntoShards(entries, maxShardBytes)
    for (const [file, shard] of shards) writeSafetensors(path.join(folder, file), shard, data)
    if (shards.size > 1) write(indexFile, formatJson(indexOf(shards)))
  })
}

/** Tokenizer, chat template and generation settings of a model, by file name. */
function companionsOf(model: string): [string, string | Uint8Array][] {
  if (isGguf(model)) return Object.entries(ggufTokenizerFiles(model)).map(([name, json]) => [name, formatJson(json)])
  const names = readdirSync(model).filter((name) => companions.test(name))
  return names.map((name) => [name, reading(path.join(model, name), () => readFileSync(path.join(model, name)))])
}

/** Consecutive tensors by file name; each shard is as full as it may be. */
function cutIntoShards(entries: readonly TensorEntry[], maxShardBytes: number): Map<string, TensorEntry[]> {
  const shards: TensorEntry[][] = [[]]
  let filled = 0
  for (const entry of entries) {
    filled += bytesOf(entry)
    if (filled > maxShardBytes && shards.at(-1)!.length > 0) {
      shards.push([])
      filled = bytesOf(entry)
    }
    shards.at(-1)!.push(entry)
  }
  if (shards.length === 1) return new Map([[singleFile, shards[0]!]])
  const number = (n: number) => String(n).padStart(5, '0')
  return new Map(shards.map((shard, i) => [`model-${number(i + 1)}-of-${number(shards.length)}.safetensors`, shard]))
}

function indexOf(shards: Map<string, TensorEntry[]>): JsonObject {
  const placed = [...shards].flatMap(([file, shard]) => shard.map((entry) => ({ file, entry })))
  return {
    metadata: { total_size: placed.reduce((sum, { entry }) => sum + bytesOf(entry), 0) },
    weight_map: Object.fromEntries(placed.map(({ file, entry }) => [entry.name, file])),
  }
}
