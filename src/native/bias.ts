import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/** Adds `bias` [dim], f32, to every row of `y` [rows, dim]. */
export function addBias(y: Tensor, bias: Tensor): void {
  match('addBias', { y: [y, 'rows dim', 'float'], bias: [bias, 'dim', 'f32'] })
  call('addBias', y, bias)
}

/** Backward of {@link addBias}: adds the sum of the rows of `dy` [rows, dim] to `dbias` [dim], f32. */
export function addBiasBackward(dy: Tensor, dbias: Tensor): void {
  match('addBiasBackward', { dy: [dy, 'rows dim', 'float'], dbias: [dbias, 'dim', 'f32'] })
  call('addBiasBackward', dy, dbias)
}
