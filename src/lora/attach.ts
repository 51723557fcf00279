import { AdapterError } from '../errors.ts'
import { type Checkpoint, fingerprint } from '../formats/huggingFace.ts'
import type { Layer } from '../model/block.ts'
import type { Linear, LoraPair } from '../model/linear.ts'
import { linears, type Model, type Projection, parseModule, projectionNames, siblings } from '../model/model.ts'
import { converted } from '../model/weights.ts'
import { copyInto } from '../native/cast.ts'
import { fillUniform } from '../native/random.ts'
import { tensorFrom } from '../tensor/tensor.ts'
import { ParameterSet } from '../train/parameters.ts'
import { type Adapter, type Matrix, scaleOf } from './adapter.ts'

/** Modules that may carry a pair, by the last part of their name, as PEFT's `target_modules` lists them. */
export const targetModules = [
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
  'lm_head',
] as const
export type TargetModule = (typeof targetModules)[number]

/** What a new adapter looks like. */
export interface LoraOptions {
  rank: number
  alpha: number
  /** Probability with which training zeroes an element of a pair's input. */
  dropout: number
  /** Scale by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732). */
  useRslora: boolean
  targets: readonly TargetModule[]
}

/** The paper's settings, but for the output head, which the paper trains too. */
export const loraDefaults: LoraOptions = {
  rank: 8,
  alpha: 16,
  dropout: 0.05,
  useRslora: false,
  targets: targetModules.filter((name) => name !== 'lm_head'),
}

/**
 * Gives every target module of `model` a new pair: A uniform in +-1/sqrt(in), as PEFT draws it, and B zero, so that the
 * model computes what it did. The pairs' tensors, `<module>.lora_A` and `<module>.lora_B`, are the parameters to train.
 */
export function addAdapter(model: Model, options: LoraOptions, seed: number): ParameterSet {
  const targets = Array.from(linears(model), ([name, linear], index) => {
    return { name, linear, index, layer: parseModule(name)?.layer }
  }).filter(({ name }) => options.targets.some((target) => name.split('.').at(-1) === target))
  const layers = Array.from(new Set(targets.map(({ layer }) => layer)), (layer) =>
    targets.filter((target) => target.layer === layer),
  )
  const shapes = layers.flatMap((ofLayer) => pairShapes(ofLayer, options.rank))
  const parameters = new ParameterSet(model.device, new Map(shapes), { rounds: true })
  for (const { name, linear, index } of targets) {
    const a = parameters.get(`${name}.lora_A`)
    const b = parameters.get(`${name}.lora_B`)
    const bound = 1 / Math.sqrt(linear.weight.shape[1]!)
    fillUniform(a.value, -bound, bound, { seed, stream: index })
    linear.lora = { a: a.operand, b: b.operand, grads: { a: a.grad, b: b.grad }, scale: scaleOf(options), index }
  }
  parameters.round()
  return parameters
}

/** Shapes of the pairs of a layer. The A of projections of one input lie side by side: products take them as one matrix. */
const pairShapes = (targets: readonly { name: string; linear: Linear }[], rank: number) => [
  ...targets.map(({ name, linear }) => [`${name}.lora_A`, [rank, linear.weight.shape[1]!]] as const),
  ...targets.map(({ name, linear }) => [`${name}.lora_B`, [linear.weight.shape[0]!, rank]] as const),
]

/** The trained pairs as an adapter on the host. */
export function adapterFrom(parameters: ParameterSet, options: LoraOptions, baseModel: string): Adapter {
  const matrix = (name: string): Matrix => {
    const { value } = parameters.get(name)
    return { shape: value.shape as [number, number], data: value.read() as Float32Array<ArrayBuffer> }
  }
  const names = Array.from(parameters.byName.keys(), (name) => name.replace(/\.lora_[AB]$/, ''))
  const modules = new Map(
    Array.from(new Set(names), (name) => [name, { a: matrix(`${name}.lora_A`), b: matrix(`${name}.lora_B`) }]),
  )
  const { rank, alpha, dropout, useRslora } = options
  return { rank, alpha, dropout, useRslora, baseModel, modules }
}

/** Lets the parameters of {@link addAdapter} be those of `adapter`, of the same modules and rank. */
export function writePairs(parameters: ParameterSet, { modules }: Adapter): void {
  for (const [name, { a, b }] of modules) {
    parameters.get(`${name}.lora_A`).value.write(a.data)
    parameters.get(`${name}.lora_B`).value.write(b.data)
  }
  parameters.round()
}

/** The pairs of a trained adapter on a model's device, by the layer that each belongs to. Without any: the base model. */
export type Pairs = ReadonlyMap<Linear, LoraPair>

/** The pairs that `model` computes with. */
export const pairsIn = (model: Model): Pairs =>
  new Map(Array.from(linears(model).values()).flatMap((linear) => (linear.lora ? [[linear, linear.lora]] : [])))

/** The model that `model` is without pairs: its weights, of which it sees every change of values. */
export function withoutPairs(model: Model): Model {
  const bare = ({ weight, bias }: Linear): Linear => ({ weight, bias })
  const layers = model.layers.map((layer) => ({
    ...layer,
    ...(Object.fromEntries(projectionNames.map((name) => [name, bare(layer[name])])) as Record<Projection, Linear>),
  }))
  return { ...model, layers, head: { ...model.head, linear: bare(model.head.linear) } }
}

/** Lets `model` compute with `pairs`, and no others. */
export function usePairs(model: Model, pairs: Pairs): void {
  for (const linear of linears(model).values()) {
    const pair = pairs.get(linear)
    if (pair) linear.lora = pair
    else delete linear.lora
  }
}

/**
 * Lets `model` compute with a trained adapter, unmerged.
 * @throws {AdapterError} as {@link pairsOf}
 */
export const attachAdapter = (model: Model, adapter: Adapter): void => usePairs(model, pairsOf(model, adapter))

/**
 * Brings a trained adapter to `model`'s device; `usePairs` puts it to use.
 * @throws {AdapterError} `E_ADAPTER_BASE`: the adapter's modules or widths are not this model's.
 */
export function pairsOf(model: Model, adapter: Adapter): Pairs {
  const pairs = new Map<Linear, LoraPair>()
  const byName = new Map(Array.from(linears(model), ([name, linear], index) => [name, { linear, index }]))
  for (const [name, { a, b }] of adapter.modules) {
    const found = byName.get(name)
    if (!found) throw foreignAdapter(name, [b.shape[0], a.shape[1]])
    const { linear, index } = found
    const [out, inputs] = linear.weight.shape as [number, number]
    if (a.shape[1] !== inputs || b.shape[0] !== out) throw foreignAdapter(name, [b.shape[0], a.shape[1]], [out, inputs])
    const operand = ({ data, shape }: Matrix) =>
      converted(tensorFrom(model.device, data, shape), model.device.activations)
    pairs.set(linear, {
      a: operand(a),
      b: operand(b),
      scale: scaleOf(adapter),
      index,
    })
  }
  for (const layer of model.layers) for (const names of siblings) joinPairs(pairs, layer, names)
  return pairs
}

/** Moves the A of projections of one input side by side, as {@link pairShapes} has them. */
function joinPairs(pairs: Map<Linear, LoraPair>, layer: Layer, names: readonly Projection[]): void {
  const found = names.map((name) => layer[name]).filter((linear) => pairs.has(linear))
  if (found.length < 2) return
  const { device, shape, dtype } = pairs.get(found[0]!)!.a
  const [rank, inputs] = shape as [number, number]
  const joined = device.empty([found.length * rank, inputs], dtype)
  for (const [i, linear] of found.entries()) {
    const pair = pairs.get(linear)!
    const a = joined.rows(i * rank, (i + 1) * rank)
    copyInto(pair.a, a)
    pair.a.dispose()
    pairs.set(linear, { ...pair, a })
  }
}

/**
 * Refuses an adapter that says it was trained for other weights than those of `checkpoint`.
 * @throws {AdapterError} `E_ADAPTER_BASE`
 */
export function requireBase(adapter: Adapter, checkpoint: Checkpoint): void {
  const found = fingerprint(checkpoint)
  if (adapter.base === undefined || adapter.base === found) return
  throw new AdapterError('E_ADAPTER_BASE', 'the adapter was trained for other weights', {
    file: checkpoint.dir,
    expected: `${adapter.baseModel ?? 'the model'}, ${adapter.base}`,
    found,
    remedy: adapter.pruning
      ? 'it was trained on a pruned model: bring it to the original dimensions with `loram recover`'
      : 'load the model that the adapter was trained for',
  })
}

/** The error for an adapter module that the model has not, or has with another shape [out, in]. */
export function foreignAdapter(module: string, found: readonly number[], model?: readonly number[]): AdapterError {
  const smaller = model?.some((size, i) => size > found[i]!)
  return new AdapterError('E_ADAPTER_BASE', 'the adapter belongs to another model', {
    tensor: module,
    expected: model ? `a pair for [${model.join(', ')}]` : 'a module of the model',
    found: `a pair for [${found.join(', ')}]`,
    remedy: smaller
      ? 'it was trained on a pruned model: bring it to the original dimensions with `loram recover`'
      : 'load the model that the adapter was trained for',
  })
}
