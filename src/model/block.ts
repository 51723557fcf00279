import { attention, attentionBackward } from '../native/attention.ts'
import { scatterRows } from '../native/gather.ts'
import { rmsNorm, rmsNormBackward } from '../native/rmsNorm.ts'
import { rope } from '../native/rope.ts'
import { swiglu, swigluBackward } from '../native/swiglu.ts'
import type { Arena } from '../tensor/arena.ts'
import { type Tensor, zeros } from '../tensor/tensor.ts'
import type { LayerCache } from './kvCache.ts'
import {
  type Dropout,
  innerForward,
  type Linear,
  linearBackward,
  linearForward,
  linearsBackward,
  linearsForward,
} from './linear.ts'

/** Weight of a norm [hidden], or of a head's [head dim], f32, and its gradient where it trains. */
export interface Norm {
  readonly weight: Tensor
  grad?: Tensor
}

/** One decoder layer. Its head counts follow from the widths of its projections, which pruning may have cut. */
export interface Layer {
  readonly inputNorm: Norm
  readonly q: Linear
  readonly k: Linear
  readonly v: Linear
  /** Of each query head and each key head, in the families that have them. */
  readonly qNorm: Norm | undefined
  readonly kNorm: Norm | undefined
  /** How many keys a query sees; 0: all. */
  readonly window: number
  readonly o: Linear
  readonly postAttentionNorm: Norm
  readonly gate: Linear
  readonly up: Linear
  readonly down: Linear
}

/** What all layers of a model share. */
export interface BlockConstants {
  readonly headDim: number
  readonly rmsNormEps: number
  /** [headDim / 2], f32 */
  readonly inverseFrequencies: Tensor
}

/** A micro-batch on the device: examples one after another, without padding. */
export interface Tokens {
  readonly ids: Tensor // [tokens] i32
  readonly positions: Tensor // [tokens] i32, from 0 in every example
  readonly bounds: Tensor // [examples + 1] i32: example e is [bounds[e], bounds[e + 1])
  readonly dropout?: Dropout | undefined
}

/**
 * How an output that costs little to make reaches backward: `now` is what forward reads, `again` gives backward the same.
 * @param copy goes to `make` the first time alone
 */
export type Cheap = <Output>(make: (copy?: Tensor) => Output, copy?: Tensor) => { now: Output; again: () => Output }

/** It lies in memory until then. */
export const kept: Cheap = (make, copy) => {
  const now = make(copy)
  return { now, again: () => now }
}

/** It is made again, by a pass over what lies beside it. */
export const remade =
  (arena: Arena): Cheap =>
  (make, copy) => ({ now: arena.temporary(() => make(copy)), again: make })

/** Where the outputs of a layer's projections from its hidden states lie; `areMade`: they are there already. */
export interface ProjectionOutputs {
  /** [tokens, out] each; queries and keys are turned where a layer has no norm for them */
  readonly qkv: readonly Tensor[]
  readonly gateUp: readonly Tensor[]
  readonly areMade: boolean
}

export type BlockOutput = ReturnType<typeof blockForward>

/**
 * Llama's decoder layer from `x` to `y`, both [tokens, hidden] (pre-norm, rotary, grouped-query attention, SwiGLU), with
 * what other families add to it: biases, norms of heads, a sliding window. Returns everything that backward reads.
 * @param y may be `x`; without it all is done but the last product, whose result backward does not need
 * @param options with a `cache`, keys and values are appended to it and read from it; with `outputs`, they lie there
 */
export function blockForward(
  layer: Layer,
  constants: BlockConstants,
  x: Tensor,
  y: Tensor | undefined,
  tokens: Tokens,
  options: { cheap?: Cheap; cache?: LayerCache | undefined; outputs?: ProjectionOutputs | undefined } = {},
) {
  const { cheap = kept, cache, outputs } = options
  const { headDim, rmsNormEps, inverseFrequencies } = constants
  const { positions, bounds, dropout } = tokens
  const areMade = outputs?.areMade

  const x2 = x.device.empty(x.shape, x.dtype)
  const h1 = cheap((copy) => rmsNorm(x, layer.inputNorm.weight, rmsNormEps, copy), x2)
  const [q, k, v] = linearsForward([layer.q, layer.k, layer.v], h1.now.y, dropout, outputs?.qkv, areMade)
  const queries = headNorm(layer.qNorm, q.y, rmsNormEps)
  const keys = headNorm(layer.kNorm, k.y, rmsNormEps)
  // Of a layer without norms of heads, what was made is what was turned, in its place.
  if (!areMade || layer.qNorm) rope(queries.y, keys.y, positions, inverseFrequencies)
  if (cache) {
    scatterRows(keys.y, cache.newRows, cache.keys)
    scatterRows(v.y, cache.newRows, cache.values)
  }
  const heads = cache
    ? attention(queries.y, cache.keys, cache.values, bounds, cache.bounds, headDim, layer.window)
    : attention(queries.y, keys.y, v.y, bounds, bounds, headDim, layer.window)
  const o = linearForward(layer.o, heads.y, { dropout, addTo: x2 })

  const h2 = cheap((copy) => rmsNorm(x2, layer.postAttentionNorm.weight, rmsNormEps, copy), y)
  const [gate, up] = linearsForward([layer.gate, layer.up], h2.now.y, dropout, outputs?.gateUp, areMade)
  const a = cheap(() => swiglu(gate.y, up.y))
  const down = y
    ? linearForward(layer.down, a.now, { dropout, addTo: y })
    : { u: innerForward(layer.down, a.now, dropout) }

  return { x, h1: h1.again, q, k, v, queries, keys, heads, x2, o, h2: h2.again, gate, up, a: a.again, down }
}

/**
 * Backward of {@link blockForward}: `dx` [tokens, hidden], in an arena, comes in as d loss / d y and leaves as d loss / d x;
 * gradients of trained weights are added to theirs. `saved` cannot be used again.
 */
export function blockBackward(
  layer: Layer,
  constants: BlockConstants,
  saved: BlockOutput,
  dx: Tensor,
  tokens: Tokens,
): void {
  const { headDim, inverseFrequencies } = constants
  const { positions, bounds, dropout } = tokens
  const { x, q, k, v, queries, keys, heads, x2, o, gate, up, down } = saved
  const arena = dx.device as Arena
  const start = arena.mark()

  const a = saved.a()
  const da = linearBackward(layer.down, a, down.u, dx, { dropout })
  const { dgate, dup } = swigluBackward(da, gate.y, up.y, { inPlace: true })
  arena.release(start)
  const h2 = saved.h2()
  const dh2 = linearsBackward([layer.gate, layer.up], h2.y, [gate.u, up.u], [dgate, dup], dropout)
  rmsNormBackward(dh2, x2, layer.postAttentionNorm.weight, h2.rstd, dx, layer.postAttentionNorm.grad)
  arena.release(start)

  const dheads = linearBackward(layer.o, heads.y, o.u, dx, { dropout })
  const { y: output, lse } = heads
  const attended = attentionBackward(dheads, queries.y, keys.y, v.y, output, lse, bounds, headDim, layer.window)
  rope(attended.dq, attended.dk, positions, inverseFrequencies, { inverse: true })
  const dq = headNormBackward(layer.qNorm, attended.dq, q.y, queries.rstd)
  const dk = headNormBackward(layer.kNorm, attended.dk, k.y, keys.rstd)
  const h1 = saved.h1()
  const dh1 = linearsBackward([layer.q, layer.k, layer.v], h1.y, [q.u, k.u, v.u], [dq, dk, attended.dv], dropout)
  rmsNormBackward(dh1, x, layer.inputNorm.weight, h1.rstd, dx, layer.inputNorm.grad)
}

/** Queries or keys `x` [tokens, heads * head dim], each head normalised where its layer has a norm for that; else `x`. */
function headNorm(norm: Norm | undefined, x: Tensor, eps: number): { y: Tensor; rstd?: Tensor } {
  return norm ? rmsNorm(x, norm.weight, eps) : { y: x }
}

function headNormBackward(norm: Norm | undefined, dy: Tensor, x: Tensor, rstd: Tensor | undefined): Tensor {
  if (!norm || !rstd) return dy
  const dx = zeros(dy.device, dy.shape, dy.dtype)
  rmsNormBackward(dy, x, norm.weight, rstd, dx, norm.grad)
  return dx
}
