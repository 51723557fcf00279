import { ModelError } from '../errors.ts'
import { cast } from '../native/cast.ts'
import { embedding, embeddingBackward } from '../native/embedding.ts'
import { nf4Embedding } from '../native/nf4.ts'
import { rmsNorm } from '../native/rmsNorm.ts'
import type { Arena } from '../tensor/arena.ts'
import { type Device, Tensor, tensorFrom } from '../tensor/tensor.ts'
import { type BlockConstants, blockForward, type Layer, type Norm, type Tokens } from './block.ts'
import { inverseFrequencies, type LlamaConfig } from './config.ts'
import { families } from './families.ts'
import type { Head } from './head.ts'
import type { LayerCache } from './kvCache.ts'
import { type Linear, linearForward, tensorsOf, type Weight } from './linear.ts'

/** A Llama-family causal language model on a device. */
export interface Model {
  readonly config: LlamaConfig
  readonly device: Device
  readonly constants: BlockConstants
  /** [vocab, hidden]; where embeddings are tied it is the head's weight too. */
  readonly embedding: { readonly weight: Weight; grad?: Tensor }
  readonly layers: Layer[]
  readonly head: Head
}

/** The seven projections of a layer: their field in {@link Layer} and their module in checkpoints and adapters. */
export const projections = {
  q: 'self_attn.q_proj',
  k: 'self_attn.k_proj',
  v: 'self_attn.v_proj',
  o: 'self_attn.o_proj',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  down: 'mlp.down_proj',
} as const

/** Projections of one input. */
export const siblings = [
  ['q', 'k', 'v'],
  ['gate', 'up'],
] as const

export type Projection = keyof typeof projections
export const projectionNames = Object.keys(projections) as Projection[]

/** `model.layers.3.self_attn.q_proj`: what it is called in checkpoints and adapters. */
export const moduleOf = (layer: number, projection: Projection): string =>
  `model.layers.${layer}.${projections[projection]}`

/** The norms of a layer: their field in {@link Layer} and their module in checkpoints. */
const normModules = {
  inputNorm: 'input_layernorm',
  qNorm: 'self_attn.q_norm',
  kNorm: 'self_attn.k_norm',
  postAttentionNorm: 'post_attention_layernorm',
} as const
const normFields = Object.keys(normModules) as (keyof typeof normModules)[]

const normOf = (layer: number, norm: keyof typeof normModules): string => `model.layers.${layer}.${normModules[norm]}`

/** The layer and projection that a module name, or that of its weight or bias, means; `undefined` for anything else. */
export function parseModule(name: string): { layer: number; projection: Projection } | undefined {
  const [, layer, path] = /^model\.layers\.(\d+)\.(\w+\.\w+)(?:\.weight|\.bias)?$/.exec(name) ?? []
  const projection = projectionNames.find((key) => projections[key] === path)
  return projection && { layer: Number(layer), projection }
}

/** Where a model's weights come from: a checkpoint, a generator, or meta. */
export interface WeightSource {
  /** A projection. */
  linear(name: string, shape: readonly number[]): Weight
  /** An embedding or output head, or both in one. */
  table(name: string, shape: readonly number[]): Weight
  /** A norm's weight or a bias: f32. */
  vector(name: string, shape: readonly number[]): Tensor
}

const norm = (source: WeightSource, name: string, size: number): Norm => ({
  weight: source.vector(`${name}.weight`, [size]),
})

/** What the layers of a model of `config` share. */
export const blockConstants = (config: LlamaConfig, device: Device): BlockConstants => ({
  headDim: config.headDim,
  rmsNormEps: config.rmsNormEps,
  inverseFrequencies: tensorFrom(device, inverseFrequencies(config)),
})

/** Builds layer `index` of a model of `config`'s shape. */
export function buildLayer(config: LlamaConfig, index: number, source: WeightSource): Layer {
  const { hiddenSize, headDim } = config
  const { qkvBias, headNorms } = families[config.modelType]
  const { intermediateSize, numAttentionHeads, numKeyValueHeads } = config.layers[index]!
  const queryWidth = numAttentionHeads * headDim
  const keyWidth = numKeyValueHeads * headDim
  const linear = (projection: Projection, out: number, inputs: number, bias = false): Linear => {
    const module = moduleOf(index, projection)
    return {
      weight: source.linear(`${module}.weight`, [out, inputs]),
      bias: bias ? { values: source.vector(`${module}.bias`, [out]) } : undefined,
    }
  }
  return {
    inputNorm: norm(source, normOf(index, 'inputNorm'), hiddenSize),
    q: linear('q', queryWidth, hiddenSize, qkvBias),
    k: linear('k', keyWidth, hiddenSize, qkvBias),
    v: linear('v', keyWidth, hiddenSize, qkvBias),
    qNorm: headNorms ? norm(source, normOf(index, 'qNorm'), headDim) : undefined,
    kNorm: headNorms ? norm(source, normOf(index, 'kNorm'), headDim) : undefined,
    window: config.attentionWindows[index]!,
    o: linear('o', hiddenSize, queryWidth),
    postAttentionNorm: norm(source, normOf(index, 'postAttentionNorm'), hiddenSize),
    gate: linear('gate', intermediateSize, hiddenSize),
    up: linear('up', intermediateSize, hiddenSize),
    down: linear('down', hiddenSize, intermediateSize),
  }
}

/**
 * Builds a model of `config`'s shape; every weight is asked of `source` once, the embedding and the head first.
 * @throws {ModelError} `E_MODEL`: `device` has no kernels for it
 */
export function buildModel(config: LlamaConfig, device: Device, source: WeightSource): Model {
  requireHeadDim(config, device)
  const { hiddenSize, vocabSize } = config
  // The largest matrices come first: until they are quantised they lie in memory as stored, and nothing else does yet.
  const embed = source.table('model.embed_tokens.weight', [vocabSize, hiddenSize])
  const headWeight = config.tieWordEmbeddings ? embed : source.table('lm_head.weight', [vocabSize, hiddenSize])
  const layers = config.layers.map((_, i) => buildLayer(config, i, source))
  const headNorm = norm(source, 'model.norm', hiddenSize)
  return {
    config,
    device,
    constants: blockConstants(config, device),
    embedding: { weight: embed },
    layers,
    head: { norm: headNorm, linear: { weight: headWeight } },
  }
}

/** Attention on the GPU takes 8 values of a head at a time, and holds no wider head than its tiles. */
function requireHeadDim({ headDim }: LlamaConfig, { activations }: Device): void {
  if (activations === 'f32' || (headDim % 8 === 0 && headDim <= 128)) return
  throw new ModelError('E_MODEL', 'attention on the GPU does not take heads of this width', {
    field: 'head_dim',
    expected: 'a multiple of 8, at most 128',
    found: String(headDim),
    remedy: 'use --device cpu',
  })
}

/** Every linear layer by its module name, in checkpoint order; the output head last. */
export function linears(model: Model): Map<string, Linear> {
  const entries = model.layers.flatMap((layer, i) =>
    projectionNames.map((projection): [string, Linear] => [moduleOf(i, projection), layer[projection]]),
  )
  return new Map([...entries, ['lm_head', model.head.linear]])
}

/** Every norm by its module name; the output head's last. */
export function norms(model: Model): Map<string, Norm> {
  const entries = model.layers.flatMap((layer, i) =>
    normFields.flatMap((field): [string, Norm][] => (layer[field] ? [[normOf(i, field), layer[field]]] : [])),
  )
  return new Map([...entries, ['model.norm', model.head.norm]])
}

function layerTensors(layer: Layer): Tensor[] {
  const linears = projectionNames.map((projection) => layer[projection])
  return [
    ...linears.flatMap(({ weight, bias }) => [...tensorsOf(weight), ...(bias ? [bias.values] : [])]),
    ...normFields.flatMap((field) => layer[field]?.weight ?? []),
  ]
}

/** The memory of a model: every tensor of its weights once, also where embeddings are tied. */
function tensorsHeld({ embedding, layers, head }: Model): Tensor[] {
  const tables = new Set([embedding.weight, head.linear.weight])
  return [...Array.from(tables).flatMap(tensorsOf), ...layers.flatMap(layerTensors), head.norm.weight]
}

/** Memory that a model's weights take as they are held. */
export function heldBytes(model: Model): number {
  return tensorsHeld(model).reduce((sum, { bytes }) => sum + bytes, 0)
}

/** Gives the memory of a layer's weights back. */
export function disposeLayer(layer: Layer): void {
  for (const tensor of layerTensors(layer)) tensor.dispose()
}

/** Gives the memory of a model's weights back; it cannot be used afterwards. */
export function disposeModel(model: Model): void {
  for (const tensor of [...tensorsHeld(model), model.constants.inverseFrequencies]) tensor.dispose()
}

/** The hidden states [tokens, hidden] that enter the first layer. */
export function embed({ embedding: { weight } }: Model, ids: Tensor): Tensor {
  return weight instanceof Tensor ? embedding(weight, ids) : nf4Embedding(weight, ids)
}

/** Adds the embedding's gradient where it trains; `dx` is the gradient at the first layer's input. */
export function embedBackward(model: Model, ids: Tensor, dx: Tensor): void {
  if (model.embedding.grad) embeddingBackward(dx, ids, model.embedding.grad)
}

/** Hidden states [tokens, hidden] after the last layer, keeping nothing for backward. */
export function modelForward(model: Model, arena: Arena, tokens: Tokens, caches?: readonly LayerCache[]): Tensor {
  const x = embed(model, tokens.ids)
  for (const [i, layer] of model.layers.entries()) {
    const mark = arena.mark()
    blockForward(layer, model.constants, x, x, tokens, { cache: caches?.[i] })
    arena.release(mark)
  }
  return x
}

/** Logits [rows, vocab] f32 of hidden states [rows, hidden]. */
export function logitsOf(model: Model, x: Tensor): Tensor {
  const { norm, linear } = model.head
  const { y } = rmsNorm(x, norm.weight, model.constants.rmsNormEps)
  return cast(linearForward(linear, y).y, 'f32')
}
