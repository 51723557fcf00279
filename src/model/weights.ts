import { ModelError } from '../errors.ts'
import type { Checkpoint } from '../formats/huggingFace.ts'
import { cast, countNonFinite } from '../native/cast.ts'
import { quantizeNf4 } from '../native/nf4.ts'
import type { DType } from '../tensor/dtype.ts'
import type { Device, Tensor } from '../tensor/tensor.ts'
import type { Weight } from './linear.ts'
import type { WeightSource } from './model.ts'

/** How frozen linear layers are held: as stored (16 bits or 32), or in NF4 with double quantisation. */
export const quantizations = ['none', 'nf4'] as const
export type Quantization = (typeof quantizations)[number]

/** Weights are copied from file to tensor in pieces of this size, so no second copy of a matrix ever exists. */
const chunkBytes = 8 << 20

export interface LoadOptions {
  quantize: Quantization
  /** Refuse NaN and infinite weights; costs one pass over them. */
  checkFinite: boolean
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

/** Weights of a checkpoint: norms and biases in f32, tables and unquantised matrices in their device's {@link heldDtype}. */
export function checkpointSource(
  checkpoint: Checkpoint,
  device: Device,
  { quantize, checkFinite }: LoadOptions,
): WeightSource {
  const stored = (name: string): Tensor => readTensor(checkpoint, name, device, checkFinite)
  const table = (name: string): Tensor => {
    const tensor = stored(name)
    return converted(tensor, heldDtype(device, tensor.dtype))
  }
  return {
    table,
    linear: (name) => heldAs(quantize, stored(name)),
    vector: (name) => converted(stored(name), 'f32'),
  }
}

/** A frozen matrix as its device holds it, instead of the one as stored: that one's memory goes back. */
function heldAs(quantize: Quantization, stored: Tensor): Weight {
  if (quantize === 'none') return converted(stored, heldDtype(stored.device, stored.dtype))
  const quantizable = stored.dtype === 'f16' ? converted(stored, 'f32') : stored
  try {
    return quantizeNf4(quantizable)
  } finally {
    quantizable.dispose()
  }
}

/** A matrix in host memory, as stored, as `device` holds it. */
export const held = (matrix: Tensor, device: Device, quantize: Quantization): Weight =>
  heldAs(quantize, device.empty(matrix.shape, matrix.dtype).write(matrix.read()))

/**
 * One tensor of a checkpoint as it is stored.
 * @throws {ModelError} `E_NONFINITE`: it holds NaN or infinity.
 */
export function readTensor(checkpoint: Checkpoint, name: string, device: Device, checkFinite = true): Tensor {
  const { shape, dtype } = checkpoint.tensors.get(name)!
  const tensor = device.empty(shape, dtype)
  if (device.kind === 'meta') return tensor
  const chunk = new Uint8Array(Math.min(chunkBytes, tensor.dataBytes))
  for (let at = 0; at < tensor.dataBytes; at += chunk.length) {
    const piece = chunk.subarray(0, Math.min(chunk.length, tensor.dataBytes - at))
    checkpoint.readInto(name, piece, at)
    tensor.write(piece, at)
  }
  if (checkFinite) refuseNonFinite(tensor, name, checkpoint.dir)
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

/** Weights without data on `device`, a meta one, for counting bytes. `dtype` is what they are stored as. */
export function metaSource(dtype: DType, quantize: Quantization, device: Device): WeightSource {
  const table = (_name: string, shape: readonly number[]) => device.empty(shape, heldDtype(device, dtype))
  return {
    table,
    linear: (name, shape) => (quantize === 'nf4' ? quantizeNf4(table(name, shape)) : table(name, shape)),
    vector: (_name, shape) => device.empty(shape, 'f32'),
  }
}
