import { z } from 'zod'
import { type ErrorDetails, ModelError, messageOf } from '../errors.ts'
import { cast } from '../native/cast.ts'
import { dequantizeNf4, type Nf4Weight, nf4Sizes } from '../native/nf4.ts'
import { cpu } from '../tensor/device.ts'
import { type DType, elements } from '../tensor/dtype.ts'
import { type Tensor, tensorFrom } from '../tensor/tensor.ts'
import type { JsonObject } from './json.ts'
import type { TensorEntry, TensorInfo, TensorSource } from './safetensors.ts'

/** How a weight lies in a file that bitsandbytes packed: codes under its name, and beside them `<name>.absmax` and others. */
export interface StoredNf4 {
  /** dtype of absmax: u8 where it is double quantised. */
  readonly absmax: DType
  /** The mean of absmax, where it is double quantised. */
  readonly nestedOffset?: number
  /** The tensors that it is kept in: the codes, and what lies beside them. */
  readonly parts: readonly TensorEntry[]
}

/** A tensor of a checkpoint. Of one in NF4, dtype and shape are the matrix's and `bytes` counts its codes alone. */
export interface CheckpointTensor extends TensorInfo {
  readonly nf4?: StoredNf4
}

const configSchema = z.object({
  quant_method: z.literal('bitsandbytes'),
  load_in_4bit: z.literal(true),
  bnb_4bit_quant_type: z.literal('nf4'),
  bnb_4bit_use_double_quant: z.boolean().nullish(),
  llm_int8_skip_modules: z.array(z.string()).nullish(),
})

const dtypes = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' } as const

const stateSchema = z.strictObject({
  quant_type: z.literal('nf4'),
  blocksize: z.literal(64),
  dtype: z.enum(['float32', 'bfloat16', 'float16']),
  shape: z.tuple([z.int().positive(), z.int().positive()]),
  nested_blocksize: z.literal(256).optional(),
  nested_dtype: z.literal('float32').optional(),
  nested_offset: z.number().optional(),
})

const remedy = 'quantise to nf4 with blocks of 64, or load the original weights, which loram quantises itself'

function validate<T>(schema: z.ZodType<T>, json: unknown, field: string, details: ErrorDetails): T {
  const { data, error } = schema.safeParse(json)
  if (error === undefined) return data
  const { path, message } = error.issues[0]!
  const value = path.reduce<unknown>((node, key) => (node as JsonObject | undefined)?.[key as string], json)
  throw new ModelError('E_MODEL', 'the weights are quantised in a way that loram does not read', {
    ...details,
    field: [field, ...path].join('.'),
    expected: message,
    found: value === undefined ? 'nothing' : JSON.stringify(value),
    remedy,
  })
}

/** Reads `quantization_config` of a config.json: what bitsandbytes quantised, as far as it can be told without the weights. */
function parseQuantization(json: JsonObject, file: string) {
  return validate(configSchema, json.quantization_config, 'quantization_config', { file })
}

/**
 * Which of a model's weights `names` are in NF4 and which of them double quantised, by its config.json: all linear layers
 * but those that `llm_int8_skip_modules` names, or without such a list but the output head.
 * @throws {ModelError} `E_MODEL`: they are quantised in another way
 */
export function quantizedByConfig(
  json: JsonObject,
  file: string,
  names: Iterable<string>,
): ReadonlyMap<string, boolean> {
  if (json.quantization_config == null) return new Map()
  const { llm_int8_skip_modules, bnb_4bit_use_double_quant } = parseQuantization(json, file)
  const skipped = llm_int8_skip_modules ?? ['lm_head']
  const isSkipped = (module: string) =>
    skipped.some((name) => `${module}.`.startsWith(`${name}.`) || module.endsWith(name))
  const modules = Array.from(names, (name) => name.replace(/\.weight$/, ''))
  const quantized = modules.filter((module) => /_proj$|^lm_head$/.test(module) && !isSkipped(module))
  return new Map(quantized.map((module) => [`${module}.weight`, bnb_4bit_use_double_quant ?? false]))
}

const partName = /^(.+)\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)$/

/**
 * The tensors of a checkpoint that bitsandbytes quantised to NF4, as transformers saves it: each weight with its parts is
 * one, by its name and its own shape.
 * @throws {ModelError} `E_MODEL`: config.json or a weight's quant_state asks for anything but NF4 in blocks of 64. `E_SHAPE`:
 *   parts are missing, or not as long as the weight's shape says.
 */
export function readQuantized(
  source: TensorSource,
  configJson: JsonObject,
  file: string,
): Map<string, CheckpointTensor> {
  parseQuantization(configJson, file)
  const parts = new Map<string, string[]>()
  const tensors = new Map<string, CheckpointTensor>(source.tensors)
  for (const name of source.tensors.keys()) {
    const [, weight, part] = partName.exec(name) ?? []
    if (weight === undefined) continue
    parts.set(weight, [...(parts.get(weight) ?? []), part!])
    tensors.delete(name)
  }
  for (const [weight, names] of parts) tensors.set(weight, readWeight(source, weight, names))
  return tensors
}

function readWeight(source: TensorSource, weight: string, parts: readonly string[]): CheckpointTensor {
  const state = readState(source, weight, parts)
  const { shape, nested_offset: nestedOffset } = state
  const isDouble = nestedOffset !== undefined
  const { bytes, blocks, nestedBlocks } = nf4Sizes(shape)
  const codes = source.tensors.get(weight)
  // bnb_4bit_quant_storage only names the bytes otherwise
  if (codes?.bytes !== bytes) throw wrongPart(weight, `${bytes} bytes for [${shape.join(', ')}]`, codes)
  const { dtype: absmax } = part(source, `${weight}.absmax`, blocks, isDouble ? ['u8'] : ['f32', 'bf16', 'f16'])
  expectMap(source, `${weight}.quant_map`, maps().levels)
  if (isDouble) {
    part(source, `${weight}.nested_absmax`, nestedBlocks, ['f32'])
    expectMap(source, `${weight}.nested_quant_map`, maps().absmax)
  }
  const entries = [weight, ...parts.map((name) => `${weight}.${name}`)].map((name) => {
    const { dtype, shape } = source.tensors.get(name)!
    return { name, dtype, shape }
  })
  return {
    dtype: dtypes[state.dtype],
    shape,
    bytes,
    nf4: { absmax, ...(isDouble && { nestedOffset }), parts: entries },
  }
}

/** Bytes of `quant_state` that other values of it may need: a number is at most 24 characters long. */
const stateRoom = 32
const isState = (part: string) => /\.quant_state\.\w+$/.test(part)

/** The parts of a weight that is written in place of `stored`, with room for another `quant_state`. */
export const replacedParts = ({ parts }: StoredNf4): TensorEntry[] =>
  parts.map((part) => (isState(part.name) ? { ...part, shape: [part.shape[0]! + stateRoom] } : part))

/** The bytes of {@link replacedParts} for `weight`, on the CPU and quantised as `stored` is, by the names of the parts. */
export function replacementBytes(
  source: TensorSource,
  stored: StoredNf4,
  { packed, absmax, nestedAbsmax, nestedOffset }: Nf4Weight,
): Map<string, Uint8Array> {
  const bytesOf = (tensor: Tensor) => new Uint8Array(tensor.read().buffer)
  const [codes, ...beside] = replacedParts(stored)
  const part = ({ name, shape }: TensorEntry): Uint8Array => {
    if (isState(name)) {
      const state = {
        ...(parsed(source.read(name)) as object),
        ...(nestedOffset && { nested_offset: nestedOffset.item() }),
      }
      return Buffer.from(JSON.stringify(state).padEnd(shape[0]!))
    }
    if (name.endsWith('.nested_absmax')) return bytesOf(nestedAbsmax!)
    if (name.endsWith('.absmax')) return bytesOf(absmax.dtype === stored.absmax ? absmax : cast(absmax, stored.absmax))
    return source.read(name)
  }
  return new Map([[codes!.name, bytesOf(packed)], ...beside.map((entry) => [entry.name, part(entry)] as const)])
}

/** The JSON that says what a weight was before. */
function readState(source: TensorSource, weight: string, parts: readonly string[]): z.infer<typeof stateSchema> {
  const [name, ...more] = parts.filter((part) => part.startsWith('quant_state.'))
  if (name === undefined || more.length > 0) {
    throw new ModelError('E_SHAPE', 'a quantised weight lacks its quant_state, or has two', {
      tensor: weight,
      expected: `${weight}.quant_state.bitsandbytes__nf4`,
      found: [name, ...more].join(', ') || 'nothing',
    })
  }
  const tensor = `${weight}.${name}`
  validate(z.literal('quant_state.bitsandbytes__nf4'), name, 'quant_state', { tensor: weight })
  return validate(stateSchema, parsed(source.read(tensor)), 'quant_state', { tensor })
}

function parsed(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString())
  } catch (error) {
    return messageOf(error)
  }
}

function part(source: TensorSource, name: string, count: number, dtypes: readonly DType[]): TensorInfo {
  const found = source.tensors.get(name)
  if (found && elements(found.shape) === count && dtypes.includes(found.dtype)) return found
  throw wrongPart(name, `${count} values of ${dtypes.join(' or ')}`, found)
}

const wrongPart = (tensor: string, expected: string, found: TensorInfo | undefined) =>
  new ModelError('E_SHAPE', 'a part of a quantised weight is missing or of another size', {
    tensor,
    expected,
    found: found ? `${found.bytes} bytes: [${found.shape.join(', ')}] ${found.dtype}` : 'nothing',
    remedy: 'download the checkpoint again',
  })

/** Refuses a code book other than the ops'; its last bits depend on who made it. */
function expectMap(source: TensorSource, name: string, want: Float32Array): void {
  part(source, name, want.length, ['f32'])
  const found = new Float32Array(source.read(name).buffer)
  const at = found.findIndex((value, i) => !(Math.abs(value - want[i]!) <= 1e-6 * Math.abs(want[i]!)))
  if (at < 0) return
  throw new ModelError('E_MODEL', 'a weight is quantised with other levels than those of NF4', {
    tensor: name,
    expected: `${want[at]} for code ${at}`,
    found: String(found[at]),
    remedy,
  })
}

let known: ReturnType<typeof readMaps> | undefined

function maps() {
  known ??= readMaps()
  return known
}

/** What the ops take a code for: that of a weight, in a block with absmax 1, and that of an absmax. */
function readMaps() {
  const one = tensorFrom(cpu, Float32Array.of(1))
  const everyCode = Uint8Array.from({ length: 8 }, (_, i) => 0x22 * i + 1)
  const levels = dequantizeNf4({ shape: [1, 16], packed: tensorFrom(cpu, everyCode), absmax: one }, 'f32')
  // A block for every code, of weights that are 1
  const blocks = dequantizeNf4(
    {
      shape: [256, 64],
      packed: tensorFrom(cpu, new Uint8Array(256 * 32).fill(0xff)),
      absmax: tensorFrom(
        cpu,
        Uint8Array.from({ length: 256 }, (_, code) => code),
      ),
      nestedAbsmax: one,
      nestedOffset: tensorFrom(cpu, Float32Array.of(0)),
    },
    'f32',
  )
  const absmax = (blocks.read() as Float32Array).filter((_, i) => i % 64 === 0)
  return { levels: levels.read() as Float32Array, absmax }
}
