import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/**
 * Root mean square norm (Zhang and Sennrich 2019, arXiv 1910.07467): `y = x * rstd * weight`, `x` [rows, dim], `weight`
 * [dim], `rstd` [rows] = 1 / sqrt(mean(x^2) + eps), which backward needs.
 */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): { y: Tensor; rstd: Tensor } {
  const { rows, dim } = match('rmsNorm', { x: [x, 'rows dim', 'float'], weight: [weight, 'dim', 'f32'] })
  const y = x.device.empty([rows, dim], x.dtype)
  const rstd = x.device.empty([rows], 'f32')
  call('rmsNorm', x, weight, y, rstd, eps)
  return { y, rstd }
}

/**
 * Backward of {@link rmsNorm}: adds d loss / d x to `dx` [rows, dim] and, where it is given, d loss / d weight to
 * `dweight` [dim].
 */
export function rmsNormBackward(
  dy: Tensor,
  x: Tensor,
  weight: Tensor,
  rstd: Tensor,
  dx: Tensor,
  dweight?: Tensor,
): void {
  match('rmsNormBackward', {
    x: [x, 'rows dim', 'float'],
    dy: [dy, 'rows dim', x.dtype],
    weight: [weight, 'dim', 'f32'],
    rstd: [rstd, 'rows', 'f32'],
    dx: [dx, 'rows dim', x.dtype],
    ...(dweight && { dweight: [dweight, 'dim', 'f32'] as const }),
  })
  call('rmsNormBackward', dy, x, weight, rstd, dx, dweight)
}
