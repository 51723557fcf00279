import { ModelError } from '../errors.ts'
import type { Checkpoint } from '../formats/huggingFace.ts'
import { cast, countNonFinite } from '../native/cast.ts'
import { dequantizeNf4, type Nf4Weight, nf4Sizes, quantizeNf4 } from '../native/nf4.ts'
import type { DType } from '../tensor/dtype.ts'
import { type Device, type Tensor, tensorFrom } from '../tensor/tensor.ts'
import type { LlamaConfig } from './config.ts'
import { tensorsOf, type Weight } from './linear.ts'
import type { WeightSource } from './model.ts'

/** How frozen linear layers are held: as stored (16 bits or 32), or in NF4 with double quantisation. */
export const quantizations = ['none', 'nf4'] as const
export type Quantization = (typeof quantizations)[number]

/** In what frozen weights are held. */
export interface Holding {
  /** The linear layers. */
  quantize: Quantization
  /** Embedding and output head in NF4 too. Default false. */
  quantizeTables?: boolean | undefined
}

/** Weights are copied from file to tensor in pieces of this size, so no second copy of a matrix ever exists. */
const chunkBytes = 8 << 20

export interface LoadOptions extends Holding {
  /** Refuse NaN and infinite weights; costs one pass over them. */
  checkFinite: boolean
  /** Gives plain matrices for those that are stored in NF4, for work on their values. Default false. */
  dequantize?: boolean
}

/** The dtype a device holds unquantised weights in: the GPU bf16; the CPU as stored, but f16 in f32, which holds it exactly. */
export function heldDtype({ activations }: Device, stored: DType): DType {
  return activations === 'f32' ? (stored === 'f16' ? 'f32' : stored) : activations
}

/** `tensor` in another dtype, instead of the one that was given: its memory goes back. */
export function converted(tensor: Tensor, dtype: DType): Tensor {
  if (tensor.dtype === dtype) return tensor
  try {
    return cast(tensor, dtype)
  } finally {
    tensor.dispose()
  }
}

/**
 * Weights of a checkpoint: norms and biases in f32, matrices that are stored in NF4 as they are, those that are not quantised
 * in their device's {@link heldDtype}.
 */
export function checkpointSource(
  checkpoint: Checkpoint,
  device: Device,
  { quantize, quantizeTables = false, checkFinite, dequantize = false }: LoadOptions,
): WeightSource {
  const stored = (name: string): Tensor => readTensor(checkpoint, name, device, checkFinite)
  const matrix = (name: string, toNf4: boolean): Weight => {
    const { nf4 } = checkpoint.tensors.get(name)!
    if (nf4 && !dequantize) return readNf4(checkpoint, name, device, checkFinite)
    return heldAs(stored(name), toNf4)
  }
  return {
    table: (name) => matrix(name, quantizeTables),
    linear: (name) => matrix(name, quantize === 'nf4'),
    vector: (name) => converted(stored(name), 'f32'),
  }
}

/** A frozen matrix as its device holds it, instead of the one as stored: that one's memory goes back. */
function heldAs(stored: Tensor, toNf4: boolean): Weight {
  if (!toNf4) return converted(stored, heldDtype(stored.device, stored.dtype))
  try {
    return quantizeNf4(stored)
  } finally {
    stored.dispose()
  }
}

/**
 * One tensor of a checkpoint in the dtype that it is stored in, or was before it was quantised.
 * @throws {ModelError} `E_NONFINITE`: it holds NaN or infinity.
 */
export function readTensor(checkpoint: Checkpoint, name: string, device: Device, checkFinite = true): Tensor {
  const { shape, dtype, nf4 } = checkpoint.tensors.get(name)!
  if (!nf4) {
    const tensor = readInto(checkpoint, name, device.empty(shape, dtype))
    if (checkFinite) refuseNonFinite(tensor, name, checkpoint.dir)
    return tensor
  }
  const packed = readNf4(checkpoint, name, device, checkFinite)
  try {
    return converted(dequantizeNf4(packed, dtype === 'bf16' ? 'bf16' : 'f32'), dtype)
  } finally {
    for (const part of tensorsOf(packed)) part.dispose()
  }
}

/**
 * A matrix that is stored in NF4, of the same bytes.
 * @throws {ModelError} `E_NONFINITE`: a scale is NaN or infinite.
 */
export function readNf4(checkpoint: Checkpoint, name: string, device: Device, checkFinite = true): Nf4Weight {
  const { shape, nf4 } = checkpoint.tensors.get(name)!
  const { absmax: dtype, nestedOffset } = nf4!
  const { bytes, blocks, nestedBlocks } = nf4Sizes(shape)
  const floats = (part: string, length: number, dtype: DType): Tensor => {
    const tensor = readInto(checkpoint, part, device.empty([length], dtype))
    if (checkFinite) refuseNonFinite(tensor, part, checkpoint.dir)
    return converted(tensor, 'f32')
  }
  const weight = {
    shape: shape as [number, number],
    packed: readInto(checkpoint, name, device.empty([bytes], 'u8')),
  }
  if (nestedOffset === undefined) return { ...weight, absmax: floats(`${name}.absmax`, blocks, dtype) }
  return {
    ...weight,
    absmax: readInto(checkpoint, `${name}.absmax`, device.empty([blocks], 'u8')),
    nestedAbsmax: floats(`${name}.nested_absmax`, nestedBlocks, 'f32'),
    nestedOffset: tensorFrom(device, Float32Array.of(nestedOffset)),
  }
}

/** Fills `tensor` with the bytes that a checkpoint has under `name`. */
function readInto(checkpoint: Checkpoint, name: string, tensor: Tensor): Tensor {
  const chunk = new Uint8Array(Math.min(chunkBytes, tensor.dataBytes))
  for (let at = 0; at < tensor.dataBytes; at += chunk.length) {
    const piece = chunk.subarray(0, Math.min(chunk.length, tensor.dataBytes - at))
    checkpoint.readInto(name, piece, at)
    tensor.write(piece, at)
  }
  return tensor
}

function refuseNonFinite(tensor: Tensor, name: string, file: string): void {
  const { count, first } = countNonFinite(tensor)
  if (count === 0) return
  throw new ModelError('E_NONFINITE', 'a weight is NaN or infinite', {
    file,
    tensor: name,
    expected: 'finite values',
    found: `${count} of ${tensor.elements}, the first at element ${first}`,
    remedy: 'download the checkpoint again, or load it as it is with checkFinite: false',
  })
}

/** Weights without data on `device`, a meta one, for counting bytes. Those of `nf4` are stored in it, the others in `dtype`. */
export function metaSource(
  { dtype, nf4 }: LlamaConfig,
  { quantize, quantizeTables = false }: Holding,
  device: Device,
): WeightSource {
  const matrix = (name: string, shape: readonly number[], toNf4: boolean): Weight => {
    const held = device.empty(shape, heldDtype(device, dtype))
    const doubleQuantize = nf4?.get(name)
    if (doubleQuantize !== undefined) return quantizeNf4(held, { doubleQuantize })
    return toNf4 ? quantizeNf4(held) : held
  }
  return {
    table: (name, shape) => matrix(name, shape, quantizeTables),
    linear: (name, shape) => matrix(name, shape, quantize === 'nf4'),
    vector: (_name, shape) => device.empty(shape, 'f32'),
  }
}
