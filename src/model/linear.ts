import { addBias, addBiasBackward } from '../native/bias.ts'
import { gemm } from '../native/gemm.ts'
import { loraBackward, loraForward } from '../native/loraLinear.ts'
import { type Nf4Weight, nf4Gemm } from '../native/nf4.ts'
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
 * @param addTo a tensor [tokens, out] to add to; without it `y` is new.
 */
export function linearForward(
  linear: Linear,
  x: Tensor,
  options: { addTo?: Tensor; dropout?: Dropout | undefined } = {},
): LinearOutput {
  const { weight, bias, lora } = linear
  const u = innerForward(linear, x, options.dropout)
  const y = options.addTo ?? x.device.empty([x.shape[0]!, outFeatures(linear)], x.dtype)
  const beta = options.addTo ? 1 : 0
  const lowRank = lora && u && { left: u, right: lora.b }
  if (weight instanceof Tensor) gemm(x, weight, y, { transposeB: true, beta, lowRank })
  else nf4Gemm(x, weight, y, { beta, lowRank })
  if (bias) addBias(y, bias.values)
  return { y, u }
}

/**
 * Adds the gradients of the layer's weight, bias and pair, and gives d loss / d x: new, in `into`, or added to `addTo`.
 * @param u what forward returned
 */
export function linearBackward(
  linear: Linear,
  x: Tensor,
  u: Tensor | undefined,
  dy: Tensor,
  options: { into?: Tensor; addTo?: Tensor; dropout?: Dropout | undefined } = {},
): Tensor {
  const { weight, grad, bias, lora } = linear
  const dx = options.addTo ?? options.into ?? x.device.empty(x.shape, x.dtype)
  const beta = options.addTo ? 1 : 0
  if (grad) gemm(dy, x, grad, { transposeA: true, beta: 1 })
  if (bias?.grad) addBiasBackward(dy, bias.grad)
  const backward = (dx: Tensor | undefined) => {
    if (!lora?.grads || !u) return
    const { a, b, grads } = lora
    const d = loraBackward(x, a, b, u, dy, dx, grads.a, grads.b, loraOptions(lora, options.dropout))
    return { left: d, right: a }
  }
  // d a can ride along with the product only where no mask comes between them.
  const dropout = (options.dropout?.rate ?? 0) > 0
  const lowRank = dropout ? undefined : backward(undefined)
  if (weight instanceof Tensor) gemm(dy, weight, dx, { beta, lowRank })
  else nf4Gemm(dy, weight, dx, { transposed: true, beta, lowRank })
  if (dropout) backward(dx)
  return dx
}

function loraOptions({ scale, index }: LoraPair, { rate, seed, stream }: Dropout = noDropout) {
  return { scale, dropout: rate, seed, stream: stream + index }
}
