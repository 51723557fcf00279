import { OpError } from '../errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/**
 * Root mean square norm (Zhang and Sennrich 2019, arXiv 1910.07467): `y = x * rstd * weight`, `weight` [dim]. A row of `x`
 * [rows, groups * dim] holds one vector, or several that are normalised each for itself, as queries hold their heads.
 *
 * Returns `y` like `x`, and `rstd` [rows * groups] = 1 / sqrt(mean(x^2) + eps), which backward needs.
 * @param copy like `x`, is set to it on the way: what a residual connection adds to
 */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, copy?: Tensor): { y: Tensor; rstd: Tensor } {
  match('rmsNorm', {
    x: [x, 'rows width', 'float'],
    weight: [weight, 'dim', 'f32'],
    ...(copy && { copy: [copy, 'rows width', x.dtype] as const }),
  })
  const y = x.device.empty(x.shape, x.dtype)
  const rstd = x.device.empty([vectorsIn('rmsNorm', x, weight)], 'f32')
  call('rmsNorm', x, weight, y, rstd, copy, eps)
  return { y, rstd }
}

/**
 * Backward of {@link rmsNorm}: adds d loss / d x to `dx` [rows, groups * dim] and, where it is given, d loss / d weight to
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
    x: [x, 'rows width', 'float'],
    dy: [dy, 'rows width', x.dtype],
    weight: [weight, 'dim', 'f32'],
    rstd: [rstd, [vectorsIn('rmsNormBackward', x, weight)], 'f32'],
    dx: [dx, 'rows width', x.dtype],
    ...(dweight && { dweight: [dweight, 'dim', 'f32'] as const }),
  })
  call('rmsNormBackward', dy, x, weight, rstd, dx, dweight)
}

/** How many vectors of the weight's length `x` holds. */
function vectorsIn(op: string, x: Tensor, weight: Tensor): number {
  const width = x.shape.at(-1)!
  if (width % weight.elements === 0) return x.elements / weight.elements
  throw new OpError('E_OP', `${op}: weight does not fit`, {
    tensor: 'weight',
    expected: `a length that divides rows of ${width}`,
    found: String(weight.elements),
  })
}
