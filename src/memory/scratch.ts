import type { Weight } from '../model/linear.ts'
import { linears, type Model, projectionNames } from '../model/model.ts'
import { attentionScratchBytes } from '../native/attention.ts'
import { loraScratchBytes } from '../native/loraLinear.ts'
import { nf4ScratchBytes } from '../native/nf4.ts'
import { bytesOn, type Device } from '../tensor/tensor.ts'

/** The most that one op takes on the GPU beside the arena, in steps with micro-batches of `tokens` tokens. */
export function scratchBytes(model: Model, tokens: number, device: Device): number {
  if (device.activations === 'f32') return 0
  const weights = Array.from(linears(model).values(), ({ weight }) => weight)
  const pairs = model.layers.flatMap((layer) => projectionNames.flatMap((projection) => layer[projection].lora ?? []))
  return Math.max(
    ...weights.map((weight) => weightScratchBytes(weight, device)),
    ...pairs.map(({ b }) => loraScratchBytes(tokens, b)),
    ...model.config.layers.map(({ numAttentionHeads }) => attentionScratchBytes(tokens, numAttentionHeads)),
  )
}

/** Of a product: it multiplies bf16, whatever the weight is held in. */
function weightScratchBytes(weight: Weight, device: Device): number {
  if ('packed' in weight) return nf4ScratchBytes(weight.shape, device)
  return weight.dtype === 'bf16' ? 0 : bytesOn(device, weight.shape, 'bf16')
}
