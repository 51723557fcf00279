import { elements } from '../tensor/dtype.ts'
import { type Device, type Tensor, zeros } from '../tensor/tensor.ts'

/** Each parameter begins on such a boundary of the flat buffers: 256 bytes. */
const alignment = 64

/** A trained tensor and the gradient that a step adds up for it, of the same shape. */
export interface Parameter {
  readonly value: Tensor
  readonly grad: Tensor
}

/**
 * The trained tensors of a run, f32, in one flat buffer, and their gradients in another: the optimizer, the gradient norm
 * and a checkpoint each take one pass over one array.
 */
export class ParameterSet {
  readonly values: Tensor
  readonly grads: Tensor
  readonly byName: ReadonlyMap<string, Parameter>

  constructor(device: Device, shapes: ReadonlyMap<string, readonly number[]>) {
    let size = 0
    const offsets = Array.from(shapes.values(), (shape) => {
      const offset = size
      size += Math.ceil(elements(shape) / alignment) * alignment
      return offset
    })
    this.values = zeros(device, [size], 'f32')
    this.grads = zeros(device, [size], 'f32')
    this.byName = new Map(
      Array.from(shapes, ([name, shape], i) => [
        name,
        { value: this.values.slice(offsets[i]!, shape), grad: this.grads.slice(offsets[i]!, shape) },
      ]),
    )
  }

  get(name: string): Parameter {
    const parameter = this.byName.get(name)
    if (!parameter) throw new Error(`there is no parameter ${name}`)
    return parameter
  }

  /** Gives the memory of values and gradients back. */
  dispose(): void {
    this.values.dispose()
    this.grads.dispose()
  }

  zeroGrads(): void {
    this.grads.zero()
  }

  /** Values of all parameters together, without the padding between them. */
  get count(): number {
    return Array.from(this.byName.values()).reduce((sum, { value }) => sum + value.elements, 0)
  }
}
