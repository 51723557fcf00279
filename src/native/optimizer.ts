import type { Device, Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

export interface AdamWStep {
  learningRate: number
  beta1: number
  beta2: number
  eps: number
  weightDecay: number
  /** Counted from 1. */
  step: number
}

/**
 * One update of AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) on flat f32 tensors [n], in torch's order of
 * operations: `parameters` and both moments change in place.
 */
export function adamW(
  parameters: Tensor,
  grads: Tensor,
  firstMoment: Tensor,
  secondMoment: Tensor,
  { learningRate, beta1, beta2, eps, weightDecay, step }: AdamWStep,
): void {
  match('adamW', {
    parameters: [parameters, 'n', 'f32'],
    grads: [grads, 'n', 'f32'],
    firstMoment: [firstMoment, 'n', 'f32'],
    secondMoment: [secondMoment, 'n', 'f32'],
  })
  call('adamW', parameters, grads, firstMoment, secondMoment, learningRate, beta1, beta2, eps, weightDecay, step)
}

/**
 * Scales `grads` [n] in place so that their Euclidean norm is at most `maxNorm`, as torch's clip_grad_norm_; 0 leaves them
 * as they are. Returns the norm before, [1], a tensor of `arena`.
 */
export function clipGradNorm(grads: Tensor, maxNorm: number, arena: Device): Tensor {
  match('clipGradNorm', { grads: [grads, 'n', 'f32'] })
  const norm = arena.empty([1], 'f32')
  call('clipGradNorm', grads, norm, maxNorm)
  return norm
}

/** Makes `grads` 0 where `parameters`, of the same shape, are 0: what pruning cut out of a weight that trains stays cut. */
export function keepZeros(parameters: Tensor, grads: Tensor): void {
  match('keepZeros', { parameters: [parameters, 'rows columns', 'f32'], grads: [grads, 'rows columns', 'f32'] })
  call('keepZeros', parameters, grads)
}
