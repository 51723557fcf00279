import { OpError } from '../errors.ts'
import type { Tensor } from '../tensor/tensor.ts'

/**
 * A tensor, the names of its dimensions in order (`'rows dim'`), and the dtypes it may have (`'f32 bf16'`; `'float'` are
 * those that its device computes in: f32, and its dtype of activations).
 */
type Rule = readonly [tensor: Tensor, dimensions: string, dtypes: string]

type Words<S extends string> = S extends `${infer First} ${infer Rest}` ? First | Words<Rest> : S
type Sizes<Rules extends Record<string, Rule>> = Record<Words<Rules[keyof Rules][1]>, number>

/**
 * Checks an op's tensors against each other and binds the names of their dimensions: a name means the same size wherever
 * it appears, a number means itself.
 * @throws {OpError} `E_OP`, naming op and tensor, expected and found.
 */
export function match<const Rules extends Record<string, Rule>>(op: string, rules: Rules): Sizes<Rules> {
  const sizes: Record<string, number> = {}
  const entries = Object.entries(rules) as [string, Rule][]
  const { kind, activations } = entries[0]![1][0].device
  for (const [name, [tensor, dimensions, allowed]] of entries) {
    const dtypes = allowed === 'float' ? [...new Set(['f32', activations])] : allowed.split(' ')
    const wanted = dimensions.split(' ')
    wanted.forEach((dimension, i) => {
      const size = /^\d/.test(dimension) ? Number(dimension) : tensor.shape[i]
      sizes[dimension] ??= size ?? 0
    })
    const fits =
      tensor.shape.length === wanted.length && wanted.every((dimension, i) => sizes[dimension] === tensor.shape[i])
    if (fits && dtypes.includes(tensor.dtype) && tensor.device.kind === kind) continue
    throw new OpError('E_OP', `${op}: ${name} does not fit`, {
      tensor: name,
      expected: `[${wanted.map((d) => `${d} = ${sizes[d]}`).join(', ')}] ${dtypes.join(' or ')} on ${kind}`,
      found: `[${tensor.shape.join(', ')}] ${tensor.dtype} on ${tensor.device.kind}`,
    })
  }
  return sizes as Sizes<Rules>
}
