import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { z } from 'zod'
import { messageOf, PlanError, RunError } from '../errors.ts'
import { writeFileAtomic } from './atomic.ts'
import { formatJson, type JsonObject, readJsonObject } from './json.ts'

/** What a pruned layer keeps, as ascending indices into the original. */
export interface KeptLayer {
  layer: number
  /** Of the MLP: rows of gate_proj and up_proj, columns of down_proj. */
  channels: number[]
  /** Key and value heads; each stays with all the query heads that use it. */
  kvHeads: number[]
}

/** How many of how many neighbours in a row are cut. */
export const groupPatterns = ['4:8', '2:4'] as const
/** Where single weights are cut: in groups of neighbours, or anywhere. */
const patterns = [...groupPatterns, 'unstructured'] as const
export type Pattern = (typeof patterns)[number]

/** How a pruned model was cut out of the original. Recovery puts an adapter back by it. */
export interface PruningPlan {
  method: string
  /** The fraction that was cut. */
  ratio: number
  /** Half-open range of the layers that were cut. */
  layers: [start: number, end: number]
  /** Single weights were cut, not structures: they are zeros in the pruned model, which keeps the original's shapes. */
  pattern?: Pattern
  seed?: number
  /** What the importance of weights was measured on. */
  calibration?: string
  /** The original model. */
  source: {
    name: string
    /** See `fingerprint` in huggingFace.ts. */
    fingerprint: string
    hiddenSize: number
    intermediateSize: number
    numHiddenLayers: number
    numAttentionHeads: number
    numKeyValueHeads: number
    headDim: number
  }
  /** One entry for each of `layers`, in order; none with a pattern. */
  kept: KeptLayer[]
  /** Of a model whose slice changes during training: the part of `kept` that is in every slice. */
  core?: KeptLayer[]
}

const formatVersion = 1
const remedy = 'take the pruning.json that came with the pruned model, or prune again'

const count = z.int().positive()
const index = z.int().nonnegative()
const ascending = z
  .array(index)
  .refine(
    (list) => list.every((value, i) => i === 0 || value > list[i - 1]!),
    'indices must ascend, none may come twice',
  )
const indices = ascending.refine((list) => list.length > 0, 'a layer must keep something')

const schema = z.strictObject({
  format_version: z.literal(formatVersion),
  method: z.string().nonempty(),
  ratio: z.number().min(0).lt(1),
  layers: z.tuple([index, index]),
  pattern: z.enum(patterns).exactOptional(),
  seed: index.exactOptional(),
  calibration: z.string().exactOptional(),
  source: z.strictObject({
    name: z.string(),
    fingerprint: z.string(),
    hidden_size: count,
    intermediate_size: count,
    num_hidden_layers: count,
    num_attention_heads: count,
    num_key_value_heads: count,
    head_dim: count,
  }),
  kept: z.array(z.strictObject({ layer: index, channels: indices, kv_heads: indices })),
  core: z.array(z.strictObject({ layer: index, channels: ascending, kv_heads: ascending })).exactOptional(),
})
type OnDisk = z.infer<typeof schema>

/**
 * Reads and checks `pruning.json`.
 * @throws {PlanError} `E_PLAN`: it is missing, was edited, or does not describe a possible cut.
 * @throws {RunError} `E_VERSION`: a newer loram wrote it.
 */
export function readPruning(file: string): PruningPlan {
  if (!existsSync(file)) {
    throw new PlanError('E_PLAN', `${file} is missing`, {
      file,
      remedy: 'pass the pruning.json beside the pruned model',
    })
  }
  const { checksum, ...json } = parse(file)
  const content = check(json, file)
  if (checksum !== checksumOf(content)) {
    const details = { file, field: 'checksum', expected: checksumOf(content), found: String(checksum), remedy }
    throw new PlanError('E_PLAN', `${file} was edited`, details)
  }
  return fromDisk(content)
}

/**
 * Writes `pruning.json` atomically.
 * @throws {PlanError} `E_PLAN`: `plan` does not describe a possible cut.
 * @throws {RunError} `E_DISK`
 */
export function writePruning(file: string, plan: PruningPlan): void {
  writeFileAtomic(file, formatPruning(plan))
}

/**
 * The text of `pruning.json`, one layer a line.
 * @throws {PlanError} `E_PLAN`: `plan` does not describe a possible cut.
 */
export function formatPruning(plan: PruningPlan): string {
  const content = check(toDisk(plan), 'pruning.json')
  const { kept, ...head } = content
  const lines = kept.map((layer) => `\n    ${JSON.stringify(layer)}`)
  return formatJson({ ...head, checksum: checksumOf(content) }).replace(
    /\n}\n$/,
    `,\n  "kept": [${lines.join(',')}\n  ]\n}\n`,
  )
}

function parse(file: string): JsonObject {
  try {
    return readJsonObject(file)
  } catch (cause) {
    throw new PlanError('E_PLAN', `${file} cannot be read`, { file, found: messageOf(cause), remedy, cause })
  }
}

function check(json: JsonObject, file: string): OnDisk {
  const version = json.format_version
  if (typeof version === 'number' && version > formatVersion) {
    throw new RunError('E_VERSION', `${file} comes from a newer loram`, {
      file,
      expected: `format_version ${formatVersion}`,
      found: `${version}`,
      remedy: 'update loram',
    })
  }
  const { data, error } = schema.safeParse(json)
  const problem = error === undefined ? problemOf(data) : describe(error)
  if (problem !== undefined)
    throw new PlanError('E_PLAN', `${file} is not a pruning plan`, { file, ...problem, remedy })
  return data!
}

function describe(error: z.ZodError) {
  const { path, message } = error.issues[0]!
  return { field: path.join('.'), found: message }
}

/** What a schema cannot say: how the fields must agree. */
function problemOf({ source, kept, core, pattern, layers: [start, end] }: OnDisk) {
  if (start > end || end > source.num_hidden_layers) {
    return { field: 'layers', expected: `a range in ${source.num_hidden_layers} layers`, found: `[${start}, ${end})` }
  }
  if (pattern !== undefined && kept.length > 0) {
    return {
      field: 'kept',
      expected: `nothing: with pattern ${pattern} all shapes stay`,
      found: `${kept.length} layers`,
    }
  }
  if (pattern !== undefined) return undefined
  if (kept.length !== end - start || kept.some(({ layer }, i) => layer !== start + i)) {
    const found = kept.map(({ layer }) => layer).join(', ')
    return { field: 'kept', expected: `each layer of [${start}, ${end}), in order`, found }
  }
  const isKept = (list: number[], some: number[]) => {
    const all = new Set(list)
    return some.every((i) => all.has(i))
  }
  const strange = core?.find(
    (one, i) => !kept[i] || !isKept(kept[i].channels, one.channels) || !isKept(kept[i].kv_heads, one.kv_heads),
  )
  if (strange) return { field: `core, layer ${strange.layer}`, expected: 'some of what the layer keeps' }
  for (const { layer, channels, kv_heads } of kept) {
    const [channel, head] = [channels.at(-1)!, kv_heads.at(-1)!]
    if (channel < source.intermediate_size && head < source.num_key_value_heads) continue
    const expected = `channels below ${source.intermediate_size}, heads below ${source.num_key_value_heads}`
    return { field: `kept, layer ${layer}`, expected, found: `channel ${channel}, head ${head}` }
  }
  return undefined
}

/** Of everything but itself; `check` has put the keys in the order of the schema. */
function checksumOf(content: OnDisk): string {
  return `sha256:${createHash('sha256').update(JSON.stringify(content)).digest('hex')}`
}

const layerToDisk = ({ layer, channels, kvHeads }: KeptLayer) => ({ layer, channels, kv_heads: kvHeads })

function toDisk({ source, kept, core, ...head }: PruningPlan): JsonObject {
  return {
    format_version: formatVersion,
    ...head,
    source: {
      name: source.name,
      fingerprint: source.fingerprint,
      hidden_size: source.hiddenSize,
      intermediate_size: source.intermediateSize,
      num_hidden_layers: source.numHiddenLayers,
      num_attention_heads: source.numAttentionHeads,
      num_key_value_heads: source.numKeyValueHeads,
      head_dim: source.headDim,
    },
    kept: kept.map(layerToDisk),
    ...(core && { core: core.map(layerToDisk) }),
  }
}

const layerFromDisk = ({ layer, channels, kv_heads }: OnDisk['kept'][number]): KeptLayer => ({
  layer,
  channels,
  kvHeads: kv_heads,
})

function fromDisk({ format_version, source, kept, core, ...head }: OnDisk): PruningPlan {
  return {
    ...head,
    source: {
      name: source.name,
      fingerprint: source.fingerprint,
      hiddenSize: source.hidden_size,
      intermediateSize: source.intermediate_size,
      numHiddenLayers: source.num_hidden_layers,
      numAttentionHeads: source.num_attention_heads,
      numKeyValueHeads: source.num_key_value_heads,
      headDim: source.head_dim,
    },
    kept: kept.map(layerFromDisk),
    ...(core && { core: core.map(layerFromDisk) }),
  }
}

/** Tells plans apart: adapters carry it, so that recovery takes the right one. */
export function planDigest(plan: PruningPlan): string {
  return `sha256:${createHash('sha256').update(formatPruning(plan)).digest('hex')}`
}
