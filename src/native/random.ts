import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/** Names a sequence of random numbers: the same on every device and for every number of threads. Both are integers. */
export interface RandomStream {
  seed: number
  stream: number
}

/** Fills `x`, f32 of any shape, with numbers uniform in [low, high) (Philox4x32-10, Salmon et al. 2011). */
export function fillUniform(x: Tensor, low: number, high: number, random: RandomStream): void {
  fill(x, false, low, high, random)
}

/** Fills `x`, f32 of any shape, with normally distributed numbers (Philox4x32-10, then Box and Muller 1958). */
export function fillNormal(x: Tensor, mean: number, standardDeviation: number, random: RandomStream): void {
  fill(x, true, mean, standardDeviation, random)
}

function fill(x: Tensor, normal: boolean, low: number, high: number, { seed, stream }: RandomStream): void {
  match('random', { x: [x, x.shape.map((_, i) => `d${i}`).join(' '), 'f32'] })
  call('random', x, normal, low, high, seed, stream)
}
