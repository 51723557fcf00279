import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/** Rows of `weight` [vocab, hidden], f32 or bf16, for `ids` [tokens] i32, as activations [tokens, hidden]. */
export function embedding(weight: Tensor, ids: Tensor): Tensor {
  const { tokens, hidden } = match('embedding', {
    weight: [weight, 'vocab hidden', 'f32 bf16'],
    ids: [ids, 'tokens', 'i32'],
  })
  const y = ids.device.empty([tokens, hidden], ids.device.activations)
  call('embedding', weight, ids, y)
  return y
}

/** Backward of {@link embedding}: adds row `i` of `dy` [tokens, hidden] to row `ids[i]` of `dweight` [vocab, hidden]. */
export function embeddingBackward(dy: Tensor, ids: Tensor, dweight: Tensor): void {
  match('embeddingBackward', {
    dy: [dy, 'tokens hidden', 'float'],
    ids: [ids, 'tokens', 'i32'],
    dweight: [dweight, 'vocab hidden', 'f32'],
  })
  call('embeddingBackward', dy, ids, dweight)
}
