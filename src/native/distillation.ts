import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

export interface DistillationOptions {
  /** Weight of every row in loss and gradient: 1 / targets for a mean. */
  scale: number
  /** Share of the divergence from the teacher, from 0 to 1; the rest is cross-entropy. */
  weight: number
  /** Both distributions are flattened by it before they are compared. */
  temperature: number
  /** Turn the logits into d loss / d logits, in place. */
  backward?: boolean
}

/**
 * Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): adds to `loss` [1] `scale` times the sum over rows of
 * `(1 - weight) * cross-entropy + weight * temperature^2 * KL(teacher || student)`, both softened by `temperature` in the
 * latter. `logits` and `teacher` [rows, vocab] of one dtype, `targets` [rows] i32, each in [0, vocab).
 */
export function distillation(
  logits: Tensor,
  teacher: Tensor,
  targets: Tensor,
  loss: Tensor,
  { scale, weight, temperature, backward = false }: DistillationOptions,
): void {
  match('distillation', {
    logits: [logits, 'rows vocab', 'float'],
    teacher: [teacher, 'rows vocab', logits.dtype],
    targets: [targets, 'rows', 'i32'],
    loss: [loss, [1], 'f32'],
  })
  call('distillation', logits, teacher, targets, loss, scale, weight, temperature, backward)
}
