import { OpError } from '../errors.ts'
import { elements } from '../tensor/dtype.ts'
import { bytesOn, type Device, type Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { type LowRank, lowRankParts } from './gemm.ts'
import { match } from './shapes.ts'

/** How long the parts of a weight are: bytes of codes, blocks of 64 with an absmax each, and 256 of those share a nested one. */
export function nf4Sizes(shape: readonly number[]): { bytes: number; blocks: number; nestedBlocks: number } {
  const count = elements(shape)
  const blocks = Math.ceil(count / 64)
  return { bytes: Math.ceil(count / 2), blocks, nestedBlocks: Math.ceil(blocks / 256) }
}

/**
 * A matrix [out, in] in NF4 (QLoRA, arXiv 2305.14314), laid out as bitsandbytes has it: blocks of 64 of the flattened
 * matrix, two codes a byte, the first in the high nibble. 4.5 bits a weight, or 4.127 when double quantised.
 */
export interface Nf4Weight {
  readonly shape: readonly [rows: number, columns: number]
  /** [ceil(elements / 2)] u8 */
  readonly packed: Tensor
  /** [ceil(elements / 64)] f32; u8 when double quantised */
  readonly absmax: Tensor
  /** [ceil(blocks / 256)] f32, when double quantised */
  readonly nestedAbsmax?: Tensor
  /** [1] f32, the mean of absmax, when double quantised */
  readonly nestedOffset?: Tensor
}

/**
 * Quantises a matrix `w` [rows, columns], f32, bf16 or f16, to NF4: every value to the nearest of the block's 16 levels, ties
 * to the lower. Codes and absmax are those of bitsandbytes' CUDA kernels. `w` must be finite.
 */
export function quantizeNf4(w: Tensor, { doubleQuantize = true, into }: QuantizeOptions = {}): Nf4Weight {
  const { rows, columns } = match('nf4Quantize', { w: [w, 'rows columns', 'f32 bf16 f16'] })
  const weight = into ?? emptyNf4(w.device, [rows, columns], doubleQuantize)
  expectWhole('nf4Quantize', weight)
  match('nf4Quantize', { packed: [weight.packed, 'bytes', 'u8'], w: [w, weight.shape, w.dtype] })
  const { packed, absmax, nestedAbsmax, nestedOffset } = weight
  if (!nestedAbsmax) {
    call('nf4Quantize', w, packed, absmax)
    return weight
  }
  const plain = w.device.empty(absmax.shape, 'f32')
  call('nf4Quantize', w, packed, plain)
  call('nf4QuantizeAbsmax', plain, absmax, nestedAbsmax, nestedOffset)
  plain.dispose()
  return weight
}

interface QuantizeOptions {
  /** Stores absmax in 8 bits, as QLoRA does. Default true. */
  doubleQuantize?: boolean
  /** A weight of the same shape to overwrite, which says itself how absmax is stored. */
  into?: Nf4Weight | undefined
}

function emptyNf4(device: Device, shape: readonly [number, number], doubleQuantize: boolean): Nf4Weight {
  const { bytes, blocks, nestedBlocks } = nf4Sizes(shape)
  const packed = device.empty([bytes], 'u8')
  if (!doubleQuantize) return { shape, packed, absmax: device.empty([blocks], 'f32') }
  return {
    shape,
    packed,
    absmax: device.empty([blocks], 'u8'),
    nestedAbsmax: device.empty([nestedBlocks], 'f32'),
    nestedOffset: device.empty([1], 'f32'),
  }
}

/**
 * The matrix that `weight` stands for, [rows, columns]: `level[code] * absmax` in f32, rounded once to `dtype`.
 * @throws {OpError} `E_OP`: the parts do not fit each other, or `dtype` is another.
 */
export function dequantizeNf4(weight: Nf4Weight, dtype: 'f32' | 'bf16'): Tensor {
  if (dtype !== 'f32' && dtype !== 'bf16') {
    throw new OpError('E_OP', 'nf4Dequantize: not a dtype that it gives', {
      expected: 'f32 or bf16',
      found: String(dtype),
    })
  }
  expectWhole('nf4Dequantize', weight)
  const w = weight.packed.device.empty(weight.shape, dtype)
  call('nf4Dequantize', weight.packed, weight.absmax, weight.nestedAbsmax, weight.nestedOffset, w)
  return w
}

/** Rows of `weight` [vocab, hidden] for `ids` [tokens] i32, dequantised to activations [tokens, hidden]. */
export function nf4Embedding(weight: Nf4Weight, ids: Tensor): Tensor {
  const { tokens } = match('nf4Embedding', { ids: [ids, 'tokens', 'i32'], packed: [weight.packed, 'bytes', 'u8'] })
  expectWhole('nf4Embedding', weight)
  const y = ids.device.empty([tokens, weight.shape[1]], ids.device.activations)
  call('nf4Embedding', weight.packed, weight.absmax, weight.nestedAbsmax, weight.nestedOffset, ids, y)
  return y
}

export interface Nf4GemmOptions {
  /** Multiplies by the matrix itself instead of its transpose: what backward needs. Default false. */
  transposed?: boolean
  /** 0 (the default) overwrites `y` without reading it. */
  beta?: number
  /** `right` is [rows, r], transposed [r, columns]. */
  lowRank?: LowRank | undefined
}

/**
 * `y = x * w^T + beta * y` with `w` [rows, columns] dequantised to f32 on the way: `x` [M, columns], `y` [M, rows], of
 * one dtype. Transposed, `y = x * w + beta * y`: `x` [M, rows], `y` [M, columns].
 * @throws {OpError} `E_OP`: the shapes or dtypes do not fit.
 */
export function nf4Gemm(x: Tensor, weight: Nf4Weight, y: Tensor, options: Nf4GemmOptions = {}): void {
  const { transposed = false, beta = 0, lowRank } = options
  const [rows, columns] = weight.shape
  match('nf4Gemm', {
    x: [x, ['M', transposed ? rows : columns], 'float', 'strided'],
    y: [y, ['M', transposed ? columns : rows], x.dtype, 'strided'],
    packed: [weight.packed, 'bytes', 'u8'],
    ...lowRankParts(lowRank, x, transposed ? ['r', columns] : [rows, 'r']),
  })
  expectWhole('nf4Gemm', weight)
  const { packed, absmax, nestedAbsmax, nestedOffset } = weight
  call('nf4Gemm', x, packed, absmax, nestedAbsmax, nestedOffset, y, transposed, beta, lowRank?.left, lowRank?.right)
}

/**
 * Memory beside its tensors that {@link nf4Gemm} takes on the GPU for more than a few rows of `x`: the weight in bf16, or as
 * many whole tiles of its rows as 128 MiB hold. `native/ops/gemm/cuda.cu` takes the same on Hopper, and on others, which decode
 * within a product, less.
 */
export function nf4ScratchBytes([rows, columns]: Nf4Weight['shape'], device: Device): number {
  const row = bytesOn(device, [1, columns], 'bf16')
  return row * Math.min(rows, Math.max(1, Math.floor(2 ** 27 / row / 256)) * 256)
}

/** Weights whose parts fit each other. A step asks a thousand times. */
const whole = new WeakSet<Nf4Weight>()

/** @throws {OpError} `E_OP`: the parts do not fit each other. */
function expectWhole(op: string, weight: Nf4Weight): void {
  if (whole.has(weight)) return
  match(op, parts(op, weight))
  whole.add(weight)
}

/** What the parts of a weight must be, for `match`. */
function parts(op: string, { shape, packed, absmax, nestedAbsmax, nestedOffset }: Nf4Weight) {
  const { bytes, blocks, nestedBlocks } = nf4Sizes(shape)
  const plain = {
    packed: [packed, [bytes], 'u8'],
    absmax: [absmax, [blocks], nestedAbsmax ? 'u8' : 'f32'],
  } as const
  if (nestedAbsmax && nestedOffset) {
    return {
      ...plain,
      nestedAbsmax: [nestedAbsmax, [nestedBlocks], 'f32'],
      nestedOffset: [nestedOffset, [1], 'f32'],
    } as const
  }
  if (!nestedAbsmax && !nestedOffset) return plain
  throw new OpError('E_OP', `${op}: half of a double quantisation`, {
    expected: 'nestedAbsmax and nestedOffset together',
    found: nestedAbsmax ? 'no nestedOffset' : 'no nestedAbsmax',
  })
}
