import { addBias, addBiasBackward } from '../native/bias.ts'
import { gemm } from '../native/gemm.ts'
import { loraForward, loraInputBackward, loraOutputBackward } from '../native/loraLinear.ts'
import { type Nf4Weight, nf4Gemm } from '../native/nf4.ts'
import { bytesPerElement } from '../tensor/dtype.ts'
import { Tensor } from '../tensor/tensor.ts'

/** A frozen or trained matrix [out, in]: f32, bf16, or packed in NF4. */
export type Weight = Tensor | Nf4Weight

/** Every tensor that a weight is held in. */
export const tensorsOf = (weight: Weight): Tensor[] =>
  weight instanceof Tensor
    ? [weight]
    : [weight.packed, weight.absmax, weight.nestedAbsmax, weight.nestedOffset].filter((part) => part !== undefined)

/**
 * LoRA's pair (arXiv 2106.09685): `y += scale * (drop(x) a^T) b^T`, `a` [rank, in], `b` [out, rank], f32 or the device's
 * dtype of activations.
 */
export interface LoraPair {
  readonly a: Tensor
  readonly b: Tensor
  /** Where it trains: what a step adds the gradients of `a` and `b` to. */
  readonly grads?: { readonly a: Tensor; readonly b: Tensor }
  /** alpha / rank */
  readonly scale: number
  /** Numbers the pairs of a model, so that each has dropout masks of its own. */
  readonly index: number
}

/** A linear layer. It trains its pair where it has one, and its weight and bias where they have gradients. */
export interface Linear {
  weight: Weight
  grad?: Tensor
  /** [out], f32 */
  readonly bias?: { readonly values: Tensor; grad?: Tensor } | undefined
  lora?: LoraPair
}

/** Dropout of one micro-batch: masks follow from (seed, stream + pair's index), so backward makes them again. */
export interface Dropout {
  readonly rate: number
  readonly seed: number
  readonly stream: number
}

const noDropout: Dropout = { rate: 0, seed: 0, stream: 0 }

/** Output of a linear layer, and LoRA's inner activations `u` [tokens, rank], which backward needs. */
export interface LinearOutput {
  readonly y: Tensor
  readonly u: Tensor | undefined
}

/** LoRA's inner activations `u` of a layer, as {@link linearForward} returns them, without the layer's output. */
export const innerForward = ({ lora }: Linear, x: Tensor, dropout?: Dropout): Tensor | undefined =>
  lora && loraForward(x, lora.a, lora.b, undefined, loraOptions(lora, dropout))

export const outFeatures = ({ weight }: Linear): number => weight.shape[0]!

/**
 * `y = x weight^T`, plus bias and LoRA's part where there are such, `x` [tokens, in].
 * @param addTo a tensor [tokens, out] to add to; without it `y` is new, or in `into`.
 * @param made `y`, where it is there already
 * @param u LoRA's inner activations, where they are there already
 */
export function linearForward(
  linear: Linear,
  x: Tensor,
  options: {
    addTo?: Tensor
    into?: Tensor | undefined
    made?: Tensor | undefined
    dropout?: Dropout | undefined
    u?: Tensor | undefined
  } = {},
): LinearOutput {
  const { weight, bias, lora } = linear
  const u = options.u ?? innerForward(linear, x, options.dropout)
  if (options.made) return { y: options.made, u }
  const y = options.addTo ?? options.into ?? x.device.empty([x.shape[0]!, outFeatures(linear)], x.dtype)
  const beta = options.addTo ? 1 : 0
  const lowRank = lora && u && { left: u, right: lora.b }
  if (weight instanceof Tensor) gemm(x, weight, y, { transposeB: true, beta, lowRank })
  else nf4Gemm(x, weight, y, { beta, lowRank })
  if (bias) addBias(y, bias.values)
  return { y, u }
}

/**
 * {@link linearForward} of layers of one input, which all pairs together read once where they are a {@link Stack}.
 * @param outputs where their outputs go, or with `areMade` are already
 */
export function linearsForward<const Linears extends readonly Linear[]>(
  linears: Linears,
  x: Tensor,
  dropout: Dropout | undefined,
  outputs: readonly Tensor[] = [],
  areMade = false,
): { [I in keyof Linears]: LinearOutput } {
  const stack = stackOf(linears, dropout)
  const u = stack && x.device.empty([x.shape[0]!, stack.a.shape[0]!], x.dtype)
  if (u) gemm(x, stack.a, u, { transposeB: true, alpha: stack.scale })
  const forward = (linear: Linear, i: number) =>
    linearForward(linear, x, {
      [areMade ? 'made' : 'into']: outputs[i],
      dropout,
      u: u && stack.columnsOf(u, i),
    })
  return linears.map(forward) as { [I in keyof Linears]: LinearOutput }
}

/**
 * Adds the gradients of the layer's weight, bias and pair, and gives d loss / d x: new, in `into`, or added to `addTo`.
 * @param u what forward returned
 * @param d [tokens, rank], set to d loss / d (x a^T); the gradient of the pair's `a`, d^T x, is then left to the caller
 */
export function linearBackward(
  linear: Linear,
  x: Tensor,
  u: Tensor | undefined,
  dy: Tensor,
  options: { into?: Tensor; addTo?: Tensor; dropout?: Dropout | undefined; d?: Tensor | undefined } = {},
): Tensor {
  const { weight, grad, bias, lora } = linear
  const dx = options.addTo ?? options.into ?? x.device.empty(x.shape, x.dtype)
  const beta = options.addTo ? 1 : 0
  if (grad) gemm(dy, x, grad, { transposeA: true, beta: 1 })
  if (bias?.grad) addBiasBackward(dy, bias.grad)
  const d = lora && u && innerBackward(lora, u, dy, options.d)
  // d a can ride along with the product only where no mask comes between them.
  const isMasked = isMasking(options.dropout)
  const lowRank = lora && d && !isMasked ? { left: d, right: lora.a } : undefined
  if (weight instanceof Tensor) gemm(dy, weight, dx, { beta, lowRank })
  else nf4Gemm(dy, weight, dx, { transposed: true, beta, lowRank })
  if (lora?.grads && d && !options.d) {
    loraInputBackward(d, x, lora.a, isMasked ? dx : undefined, lora.grads.a, loraOptions(lora, options.dropout))
  }
  return dx
}

/** {@link linearBackward} of layers of one input `x`, as {@link linearsForward} took them: the sum of all d loss / d x. */
export function linearsBackward(
  linears: readonly Linear[],
  x: Tensor,
  us: readonly (Tensor | undefined)[],
  dys: readonly Tensor[],
  dropout: Dropout | undefined,
): Tensor {
  const dx = x.device.empty(x.shape, x.dtype)
  const stack = stackOf(linears, dropout)
  const d = stack?.grad && x.device.empty([x.shape[0]!, stack.a.shape[0]!], x.dtype)
  for (const [i, linear] of linears.entries()) {
    const target = i === 0 ? { into: dx } : { addTo: dx }
    linearBackward(linear, x, us[i], dys[i]!, { ...target, dropout, d: d && stack?.columnsOf(d, i) })
  }
  if (d && stack?.grad) gemm(d, x, stack.grad, { transposeA: true, beta: 1 })
  return dx
}

/** Where a pair trains: adds the gradient of its `b` and gives d loss / d (drop(x) a^T) [tokens, rank], in `into` or new. */
function innerBackward({ b, grads, scale }: LoraPair, u: Tensor, dy: Tensor, into?: Tensor): Tensor | undefined {
  if (!grads) return undefined
  const d = into ?? u.device.empty(u.shape, u.dtype)
  loraOutputBackward(dy, b, u, d, grads.b, scale)
  return d
}

const isMasking = (dropout: Dropout | undefined): boolean => dropout !== undefined && dropout.rate > 0

function loraOptions({ scale, index }: LoraPair, { rate, seed, stream }: Dropout = noDropout) {
  return { scale, dropout: rate, seed, stream: stream + index }
}

/** The pairs of several layers as one: `a` [layers * rank, in]. */
interface Stack {
  readonly a: Tensor
  /** Gradient of `a`, where all pairs train. */
  readonly grad: Tensor | undefined
  readonly scale: number
  /** Those of layer `index` in a matrix of [tokens, layers * rank]. */
  columnsOf(matrix: Tensor, index: number): Tensor
}

/** Columns of the GPU's products begin at multiples of so many elements. */
const columnAlignment = 8

/**
 * The pairs of layers of one input as one, so that a product reads the input once for all: where each layer has one, all of
 * one rank and scale, side by side in memory, and no mask of its own.
 */
function stackOf(linears: readonly Linear[], dropout: Dropout | undefined): Stack | undefined {
  const pairs = linears.flatMap(({ lora }) => lora ?? [])
  const [first] = pairs
  if (!first || pairs.length < linears.length || isMasking(dropout)) return undefined
  const { scale } = first
  const rank = first.a.shape[0]!
  const isLike = (pair: LoraPair) => pair.scale === scale && pair.a.shape[0] === rank
  const a = joined(pairs.map(({ a }) => a))
  if (!a || rank % columnAlignment !== 0 || !pairs.every(isLike)) return undefined
  const grads = pairs.flatMap(({ grads }) => grads?.a ?? [])
  return {
    a,
    grad: grads.length === pairs.length ? joined(grads) : undefined,
    scale,
    columnsOf: (matrix, index) => matrix.columns(index * rank, (index + 1) * rank),
  }
}

/** Matrices of one shape and dtype that lie one after another, as one. */
function joined(parts: readonly Tensor[]): Tensor | undefined {
  const [first] = parts as [Tensor]
  const { memory, shape, dtype, pitch } = first
  const [rows, columns] = shape as [number, number]
  const bytes = rows * pitch * bytesPerElement[dtype]
  const follows = (part: Tensor, i: number) =>
    part.memory.storage === memory.storage &&
    part.memory.byteOffset === memory.byteOffset + i * bytes &&
    part.dtype === dtype &&
    part.pitch === pitch
  return parts.every(follows) ? first.slice(0, [parts.length * rows, columns], pitch) : undefined
}
