import { OpError } from '../errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/**
 * Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in place: dimension `j` of every head of `x` [tokens,
 * heads * headDim] turns together with `j + headDim / 2` by `positions[token] * inverseFrequencies[j]`, `positions`
 * [tokens] i32, `inverseFrequencies` [headDim / 2]. `inverse` turns back, which is the backward pass.
 */
export function rope(x: Tensor, positions: Tensor, inverseFrequencies: Tensor, { inverse = false } = {}): void {
  const { width, half } = match('rope', {
    x: [x, 'tokens width', 'float'],
    positions: [positions, 'tokens', 'i32'],
    inverseFrequencies: [inverseFrequencies, 'half', 'f32'],
  })
  if (width % (2 * half) !== 0) {
    throw new OpError('E_OP', 'rope: x does not fit', {
      tensor: 'x',
      expected: `a width that is a multiple of headDim ${2 * half}`,
      found: String(width),
    })
  }
  call('rope', x, positions, inverseFrequencies, inverse)
}
