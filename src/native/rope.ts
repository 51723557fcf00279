import { OpError } from '../errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/**
 * Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of queries `q` [tokens, heads * headDim] and keys `k` [tokens,
 * kv heads * headDim], in place. Dimension `j` of every head turns together with `j + headDim / 2` by `positions[token] *
 * inverseFrequencies[j]`, `positions` [tokens] i32, `inverseFrequencies` [headDim / 2]. `inverse` turns back, which is the
 * backward pass.
 */
export function rope(
  q: Tensor,
  k: Tensor,
  positions: Tensor,
  inverseFrequencies: Tensor,
  { inverse = false } = {},
): void {
  const { half } = match('rope', {
    q: [q, 'tokens width', 'float'],
    k: [k, 'tokens keyWidth', q.dtype],
    positions: [positions, 'tokens', 'i32'],
    inverseFrequencies: [inverseFrequencies, 'half', 'f32'],
  })
  for (const [tensor, { shape }] of Object.entries({ q, k })) {
    if (shape[1]! % (2 * half) === 0) continue
    throw new OpError('E_OP', `rope: ${tensor} does not fit`, {
      tensor,
      expected: `a width that is a multiple of headDim ${2 * half}`,
      found: String(shape[1]),
    })
  }
  call('rope', q, k, positions, inverseFrequencies, inverse)
}
