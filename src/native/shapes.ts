import { OpError } from '../errors.ts'
import { bytesPerElement } from '../tensor/dtype.ts'
import type { Device, Tensor } from '../tensor/tensor.ts'

/**
 * A tensor, the names of its dimensions in order (`'rows dim'`, or `['rows', 64]` where a size is known), and the dtypes it
 * may have (`'f32 bf16'`; `'float'` are those that its device computes in: f32, and its dtype of activations). A matrix must
 * be whole unless it is `'strided'`, and may be columns of a wider one; on the GPU from a multiple of 16 bytes on.
 */
type Rule = readonly [
  tensor: Tensor,
  dimensions: string | readonly Dimension[],
  dtypes: string,
  layout?: 'strided' | undefined,
]
type Dimension = string | number

type Words<S> = S extends `${infer First} ${infer Rest}` ? First | Words<Rest> : S
type Names<Dimensions> = Dimensions extends readonly (infer One)[] ? Extract<One, string> : Words<Dimensions>
type Sizes<Rules extends Record<string, Rule>> = Record<Names<Rules[keyof Rules][1]> & string, number>

/**
 * Checks an op's tensors against each other and binds the names of their dimensions: a name means the same size wherever
 * it appears, a number means itself.
 * @throws {OpError} `E_OP`, naming op and tensor, expected and found.
 */
export function match<const Rules extends Record<string, Rule>>(op: string, rules: Rules): Sizes<Rules> {
  const sizes: Record<string, number> = {}
  let device: Device | undefined
  for (const name in rules) {
    const rule = rules[name]!
    device ??= rule[0].device
    if (!fits(rule, device, sizes)) throw misfit(op, name, rule, device, sizes)
  }
  return sizes as Sizes<Rules>
}

// A step calls this a thousand times: what follows takes no memory.

function fits([tensor, dimensions, dtypes, layout]: Rule, device: Device, sizes: Record<string, number>): boolean {
  const { shape } = tensor
  const wanted = dimensionsOf(dimensions)
  if (wanted.length !== shape.length) return false
  for (let i = 0; i < wanted.length; i++) {
    const dimension = wanted[i]!
    if (typeof dimension === 'string') sizes[dimension] ??= shape[i]!
    if (shape[i] !== (typeof dimension === 'string' ? sizes[dimension] : dimension)) return false
  }
  if (layout === 'strided' ? isMisaligned(tensor) : tensor.isStrided) return false
  return tensor.device.kind === device.kind && dtypesOf(dtypes, device).includes(tensor.dtype)
}

/** Rows that are whole lines of 16 bytes are read and written so by the GPU, and those of bf16 are never anything else. */
function isMisaligned({ device, dtype, memory, pitch }: Tensor): boolean {
  if (device.rowAlignment === 1) return false
  const hasLines = (pitch * bytesPerElement[dtype]) % lineBytes === 0
  return hasLines ? memory.byteOffset % lineBytes > 0 : dtype === 'bf16'
}

const lineBytes = 16

const floats = { f32: ['f32'], bf16: ['f32', 'bf16'] } as const

const dtypesOf = (dtypes: string, { activations }: Device): readonly string[] =>
  dtypes === 'float' ? floats[activations] : wordsOf(dtypes)

const dimensionsOf = (dimensions: Rule[1]): readonly Dimension[] =>
  typeof dimensions === 'string' ? wordsOf(dimensions) : dimensions

const split = new Map<string, readonly string[]>()

function wordsOf(text: string): readonly string[] {
  const known = split.get(text)
  if (known) return known
  const words = text.split(' ')
  split.set(text, words)
  return words
}

function misfit(
  op: string,
  name: string,
  [tensor, dimensions, dtypes, layout]: Rule,
  device: Device,
  sizes: Record<string, number>,
): OpError {
  const { shape, dtype } = tensor
  const wanted = dimensionsOf(dimensions).map((dimension, i) =>
    typeof dimension === 'number' ? dimension : `${dimension} = ${sizes[dimension] ?? shape[i] ?? 0}`,
  )
  return new OpError('E_OP', `${op}: ${name} does not fit`, {
    tensor: name,
    expected: `[${wanted.join(', ')}] ${dtypesOf(dtypes, device).join(' or ')} on ${device.kind}`,
    found: `[${shape.join(', ')}] ${dtype} on ${tensor.device.kind}${placeOf(tensor, layout)}`,
  })
}

function placeOf(tensor: Tensor, layout: Rule[3]): string {
  if (layout === 'strided') return isMisaligned(tensor) ? ', not on multiples of 16 bytes' : ''
  return tensor.isStrided ? ', columns of a wider matrix' : ''
}
