import { z } from 'zod'
import { ModelError, PlanError } from '../errors.ts'
import type { PruningPlan } from '../formats/pruningJson.ts'
import type { DType } from '../tensor/dtype.ts'
import { type Family, families, type ModelType } from './families.ts'

/** The sizes that structured pruning changes, of one layer. */
export interface LayerWidths {
  intermediateSize: number
  numAttentionHeads: number
  numKeyValueHeads: number
}

/** How the frequencies of the rotary position embedding are stretched for long contexts. */
export type RopeScaling =
  | { type: 'default' }
  | { type: 'linear'; factor: number }
  | {
      type: 'llama3'
      factor: number
      lowFreqFactor: number
      highFreqFactor: number
      originalMaxPositionEmbeddings: number
    }

/** A model's sizes and constants: config.json in camelCase. Of a pruned model, the sizes at the top are the original's. */
export interface LlamaConfig extends LayerWidths {
  modelType: ModelType
  hiddenSize: number
  numHiddenLayers: number
  headDim: number
  vocabSize: number
  rmsNormEps: number
  ropeTheta: number
  ropeScaling: RopeScaling
  tieWordEmbeddings: boolean
  maxPositionEmbeddings: number
  bosTokenId?: number
  eosTokenIds: number[]
  padTokenId?: number
  /** Of the weights on disk, or what they had before they were quantised. */
  dtype: DType
  /** How many keys a query sees in each layer, its own included; 0: all before it. */
  attentionWindows: number[]
  /** Names of the weights that lie on disk in NF4, and whether they are double quantised. */
  nf4?: ReadonlyMap<string, boolean>
  /** What each layer has; all alike unless pruned. */
  layers: LayerWidths[]
}

type Json = Readonly<Record<string, unknown>>

const count = z.int().positive()
const positive = z.number().positive()
const tokenId = z.int().nullish()
const interval = z.tuple([z.int().nonnegative(), z.int().nonnegative()]).optional()
const ratio = z.number().min(0).lt(1).optional()

const dtypeNames = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' } as const
const dtypeName = z.enum(['float32', 'bfloat16', 'float16']).nullish()

/** Old files say `type`, newer ones `rope_type`. Heads that turn in part, and layers that turn differently, are refused. */
const ropeType = z.object({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  partial_rotary_factor: z.literal(1).nullish(),
  full_attention: z.null().optional(),
  sliding_attention: z.null().optional(),
})
const ropeTypes = {
  default: z.object({}).transform((): RopeScaling => ({ type: 'default' })),
  linear: z.object({ factor: positive }).transform(({ factor }): RopeScaling => ({ type: 'linear', factor })),
  llama3: z
    .object({
      factor: positive,
      low_freq_factor: positive,
      high_freq_factor: positive,
      original_max_position_embeddings: count,
    })
    .transform(
      (rope): RopeScaling => ({
        type: 'llama3',
        factor: rope.factor,
        lowFreqFactor: rope.low_freq_factor,
        highFreqFactor: rope.high_freq_factor,
        originalMaxPositionEmbeddings: rope.original_max_position_embeddings,
      }),
    ),
}

const schema = z.object({
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  vocab_size: count,
  rms_norm_eps: positive.nullish(),
  max_position_embeddings: count.nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  // transformers 4 has rope_theta and rope_scaling, transformers 5 has rope_parameters with both
  rope_theta: positive.nullish(),
  rope_scaling: z.looseObject({}).nullish(),
  rope_parameters: z.looseObject({ rope_theta: positive.nullish() }).nullish(),
  sliding_window: count.nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.int().nonnegative().nullish(),
  layer_types: z.array(z.enum(['full_attention', 'sliding_attention'])).nullish(),
  partial_rotary_factor: z.literal(1).nullish(),
  // transformers 4, transformers 5
  torch_dtype: dtypeName,
  dtype: dtypeName,
  bos_token_id: tokenId,
  eos_token_id: z.union([tokenId, z.array(z.int())]),
  pad_token_id: tokenId,
  // what LoRAM's reference code adds to the original config of a pruned model
  pruned_mlp_interval: interval,
  pruned_mlp_ratio: ratio,
  pruned_attn_interval: interval,
  pruned_attn_ratio: ratio,
})
type Parsed = z.infer<typeof schema>

/**
 * Reads config.json as transformers 4 or 5 writes it.
 * @param file  Where it comes from, for messages.
 * @param pruning  The plan beside a pruned checkpoint; its config.json is that of the original.
 * @param generationConfigJson  generation_config.json; its end tokens win.
 * @throws {ModelError} `E_MODEL` names the field and what is supported.
 * @throws {PlanError} `E_PLAN`: `pruning` was made from a model of other sizes.
 */
export function parseConfig(
  configJson: Json,
  file: string,
  pruning?: PruningPlan,
  generationConfigJson?: Json,
): LlamaConfig {
  const modelType = familyOf(configJson, file)
  const { defaults } = families[modelType]
  const json = validate(schema, configJson, file)
  const numAttentionHeads = json.num_attention_heads
  const numKeyValueHeads =
    (json.num_key_value_heads === undefined ? defaults.numKeyValueHeads : json.num_key_value_heads) ?? numAttentionHeads
  const givenHeadDim = json.head_dim ?? defaults.headDim
  if (givenHeadDim === undefined) requireMultiple(file, 'hidden_size', json.hidden_size, numAttentionHeads)
  requireMultiple(file, 'num_attention_heads', numAttentionHeads, numKeyValueHeads)
  const headDim = givenHeadDim ?? json.hidden_size / numAttentionHeads
  requireMultiple(file, 'head_dim', headDim, 2)
  const eos =
    generationConfigJson && validate(schema.pick({ eos_token_id: true }), generationConfigJson, file).eos_token_id
  const full = { intermediateSize: json.intermediate_size, numAttentionHeads, numKeyValueHeads }
  const config: LlamaConfig = {
    modelType,
    hiddenSize: json.hidden_size,
    numHiddenLayers: json.num_hidden_layers,
    ...full,
    headDim,
    vocabSize: json.vocab_size,
    rmsNormEps: json.rms_norm_eps ?? defaults.rmsNormEps,
    ropeTheta: json.rope_parameters?.rope_theta ?? json.rope_theta ?? defaults.ropeTheta,
    ropeScaling: parseRope(json, file),
    tieWordEmbeddings: json.tie_word_embeddings ?? false,
    maxPositionEmbeddings: json.max_position_embeddings ?? defaults.maxPositionEmbeddings,
    ...idIfSet('bosTokenId', json.bos_token_id),
    eosTokenIds: [eos ?? json.eos_token_id ?? []].flat(),
    ...idIfSet('padTokenId', json.pad_token_id),
    dtype: dtypeNames[json.dtype ?? json.torch_dtype ?? 'float32'],
    attentionWindows: parseWindows(json, families[modelType].slidingWindow, file),
    layers: Array.from({ length: json.num_hidden_layers }, (_, layer) => prunedByFormula(full, layer, json)),
  }
  return pruning === undefined ? config : { ...config, layers: prunedByPlan(config, pruning, file) }
}

/** The key of config.json that says which family; refuses families, and variants of one, that loram does not run. */
function familyOf(json: Json, file: string): ModelType {
  const modelType = json.model_type
  if (typeof modelType !== 'string' || !Object.hasOwn(families, modelType)) {
    throw unsupported(file, 'model_type', Object.keys(families).join(', '), modelType)
  }
  const { fixed } = families[modelType as ModelType]
  for (const [field, value] of Object.entries(fixed)) {
    if (json[field] != null && json[field] !== value) throw unsupported(file, field, JSON.stringify(value), json[field])
  }
  return modelType as ModelType
}

function parseRope(json: Parsed, file: string): RopeScaling {
  const [field, rope] =
    json.rope_parameters == null ? ['rope_scaling', json.rope_scaling ?? {}] : ['rope_parameters', json.rope_parameters]
  const names = validate(ropeType, rope, file, field)
  const type = names.rope_type ?? names.type ?? 'default'
  if (!Object.hasOwn(ropeTypes, type))
    throw unsupported(file, `${field}.rope_type`, Object.keys(ropeTypes).join(', '), type)
  return validate<RopeScaling>(ropeTypes[type as keyof typeof ropeTypes], rope, file, field)
}

/** Each layer's window. Where config.json is silent, transformers assumes 4096 tokens, and none in the first 28 layers. */
function parseWindows(json: Parsed, kind: Family['slidingWindow'], file: string): number[] {
  const { num_hidden_layers: layers, sliding_window, use_sliding_window, max_window_layers, layer_types } = json
  const window = sliding_window === undefined ? 4096 : (sliding_window ?? 0)
  const forEach = (windowOf: (layer: number) => number) => Array.from({ length: layers }, (_, i) => windowOf(i))
  if (kind === 'none') return forEach(() => 0)
  if (kind === 'all') return forEach(() => window)
  const firstSliding = use_sliding_window ? (max_window_layers ?? 28) : layers
  if (layer_types == null) return forEach((layer) => (layer >= firstSliding ? window : 0))
  if (layer_types.length !== layers) {
    throw unsupported(file, 'layer_types', `one for each of ${layers} layers`, layer_types)
  }
  if (layer_types.includes('sliding_attention') && !(use_sliding_window && window)) {
    throw unsupported(file, 'layer_types', 'full_attention alone, since there is no sliding window', layer_types)
  }
  return layer_types.map((type) => (type === 'sliding_attention' ? window : 0))
}

/** -1 stands for "none" in old files. */
function idIfSet<K extends string>(key: K, id: number | null | undefined) {
  return (id != null && id >= 0 ? { [key]: id } : {}) as { [key in K]?: number }
}

function validate<T>(schema: z.ZodType<T>, json: Json, file: string, parent?: string): T {
  const { data, error } = schema.safeParse(json)
  if (error === undefined) return data
  const { path, message } = error.issues[0]!
  const value = path.reduce<unknown>((node, key) => (node as Record<PropertyKey, unknown> | undefined)?.[key], json)
  throw unsupported(file, [...(parent === undefined ? [] : [parent]), ...path].join('.'), message, value)
}

function requireMultiple(file: string, field: string, value: number, divisor: number): void {
  if (value % divisor !== 0) throw unsupported(file, field, `a multiple of ${divisor}`, value)
}

function unsupported(file: string, field: string, expected: string, found: unknown): ModelError {
  const details = { file, field, expected, found: found === undefined ? 'nothing' : JSON.stringify(found) }
  return new ModelError('E_MODEL', `${file} describes a model that loram cannot run`, details)
}

/**
 * What LoRAM's structured pruning leaves of a layer. Grouped-query attention loses kv heads with all their query heads.
 * @see https://github.com/junzhang-zj/LoRAM, whose order of operations decides how doubles are rounded.
 */
export function prunedWidths(full: LayerWidths, mlpRatio: number, attentionRatio: number): LayerWidths {
  const { intermediateSize, numAttentionHeads, numKeyValueHeads } = full
  const kvHeads =
    numKeyValueHeads === numAttentionHeads
      ? Math.trunc(numKeyValueHeads * (1 - attentionRatio))
      : numKeyValueHeads - Math.trunc(numKeyValueHeads * attentionRatio)
  return {
    intermediateSize: intermediateSize - Math.ceil(intermediateSize * mlpRatio),
    numAttentionHeads: kvHeads * (numAttentionHeads / numKeyValueHeads),
    numKeyValueHeads: kvHeads,
  }
}

/** Widths of a checkpoint that LoRAM's reference code pruned: it records ranges and ratios, no indices. */
function prunedByFormula(full: LayerWidths, layer: number, json: Parsed): LayerWidths {
  const ratioIn = ([start, end]: [number, number] = [0, 0], ratio = 0) => (start <= layer && layer < end ? ratio : 0)
  const mlpRatio = ratioIn(json.pruned_mlp_interval, json.pruned_mlp_ratio)
  return prunedWidths(full, mlpRatio, ratioIn(json.pruned_attn_interval, json.pruned_attn_ratio))
}

function prunedByPlan(config: LlamaConfig, { source, kept }: PruningPlan, file: string): LayerWidths[] {
  const { name, fingerprint, ...sizes } = source
  for (const [field, size] of Object.entries(sizes) as [keyof typeof sizes, number][]) {
    if (config[field] === size) continue
    throw new PlanError('E_PLAN', `pruning.json was made from another model than ${file} describes`, {
      file,
      field,
      expected: `${size}, as in ${name}`,
      found: `${config[field]}`,
      remedy: 'keep the config.json of the original beside the pruned weights',
    })
  }
  const { intermediateSize, numAttentionHeads, numKeyValueHeads } = config
  const layers = Array.from({ length: config.numHiddenLayers }, () => ({
    intermediateSize,
    numAttentionHeads,
    numKeyValueHeads,
  }))
  for (const { layer, channels, kvHeads } of kept) {
    layers[layer] = {
      intermediateSize: channels.length,
      numAttentionHeads: kvHeads.length * (numAttentionHeads / numKeyValueHeads),
      numKeyValueHeads: kvHeads.length,
    }
  }
  return layers
}

/** Names and shapes of all weights in a checkpoint, in the order of the forward pass; linear layers are `[out, in]`. */
export function expectedTensors(config: LlamaConfig): Map<string, number[]> {
  const { hiddenSize, headDim, vocabSize } = config
  const { qkvBias, headNorms } = families[config.modelType]
  const tensors = new Map<string, number[]>([['model.embed_tokens.weight', [vocabSize, hiddenSize]]])
  for (const [i, { intermediateSize, numAttentionHeads, numKeyValueHeads }] of config.layers.entries()) {
    const layer = `model.layers.${i}`
    tensors.set(`${layer}.input_layernorm.weight`, [hiddenSize])
    for (const [name, heads] of Object.entries({ q: numAttentionHeads, k: numKeyValueHeads, v: numKeyValueHeads })) {
      tensors.set(`${layer}.self_attn.${name}_proj.weight`, [heads * headDim, hiddenSize])
      if (qkvBias) tensors.set(`${layer}.self_attn.${name}_proj.bias`, [heads * headDim])
      if (headNorms && name !== 'v') tensors.set(`${layer}.self_attn.${name}_norm.weight`, [headDim])
    }
    tensors
      .set(`${layer}.self_attn.o_proj.weight`, [hiddenSize, numAttentionHeads * headDim])
      .set(`${layer}.post_attention_layernorm.weight`, [hiddenSize])
      .set(`${layer}.mlp.gate_proj.weight`, [intermediateSize, hiddenSize])
      .set(`${layer}.mlp.up_proj.weight`, [intermediateSize, hiddenSize])
      .set(`${layer}.mlp.down_proj.weight`, [hiddenSize, intermediateSize])
  }
  tensors.set('model.norm.weight', [hiddenSize])
  if (!config.tieWordEmbeddings) tensors.set('lm_head.weight', [vocabSize, hiddenSize])
  return tensors
}

/**
 * The `headDim / 2` frequencies of the rotary position embedding (Su et al. 2021, arXiv 2104.09864), in radians per token.
 * `linear` slows all of them by `factor`; `llama3` those with long waves, with a smooth transition, as transformers does.
 */
export function inverseFrequencies({ headDim, ropeTheta, ropeScaling }: LlamaConfig): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: headDim / 2 }, (_, j) => stretch(ropeTheta ** ((-2 * j) / headDim), ropeScaling))
}

function stretch(frequency: number, scaling: RopeScaling): number {
  if (scaling.type === 'default') return frequency
  const slow = frequency / scaling.factor
  if (scaling.type === 'linear') return slow
  const { lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings } = scaling
  const turns = (originalMaxPositionEmbeddings * frequency) / (2 * Math.PI)
  const share = Math.min(1, Math.max(0, (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor)))
  return share * frequency + (1 - share) * slow
}
