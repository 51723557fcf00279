import { copyInto } from '../native/cast.ts'
import { elements } from '../tensor/dtype.ts'
import { type Device, type Tensor, zeros } from '../tensor/tensor.ts'

/** Each parameter begins on such a boundary of the flat buffers: 256 bytes. */
const alignment = 64

/** Rows of a matrix that products read as it lies are a multiple of so many elements. */
const rowAlignment = 8

/** A trained tensor and the gradient that a step adds up for it, of the same shape. */
export interface Parameter {
  readonly value: Tensor
  readonly grad: Tensor
  /** What products read: `value`, or its copy in `ParameterSet.rounded`. */
  readonly operand: Tensor
}

/**
 * The trained tensors of a run, f32, in one flat buffer, and their gradients in another: the optimizer, the gradient norm
 * and a checkpoint each take one pass over one array.
 */
export class ParameterSet {
  readonly values: Tensor
  readonly grads: Tensor
  /** The values in the device's dtype of activations, where that is not f32: `round` renews it. */
  readonly rounded: Tensor | undefined
  readonly byName: ReadonlyMap<string, Parameter>

  /** @param options `rounds`: whether products read a copy of the values in the device's dtype of activations */
  constructor(device: Device, shapes: ReadonlyMap<string, readonly number[]>, { rounds = false } = {}) {
    let size = 0
    const offsets = Array.from(shapes.values(), (shape) => {
      const offset = size
      size += Math.ceil(elements(shape) / alignment) * alignment
      return offset
    })
    this.values = zeros(device, [size], 'f32')
    this.grads = zeros(device, [size], 'f32')
    if (rounds && device.activations !== 'f32') this.rounded = zeros(device, [size], device.activations)
    const operandAt = (offset: number, shape: readonly number[]) => {
      const width = shape.at(-1)!
      return width % rowAlignment === 0 ? this.rounded?.slice(offset, shape, width) : undefined
    }
    this.byName = new Map(
      Array.from(shapes, ([name, shape], i) => {
        const offset = offsets[i]!
        const value = this.values.slice(offset, shape)
        return [name, { value, grad: this.grads.slice(offset, shape), operand: operandAt(offset, shape) ?? value }]
      }),
    )
  }

  /** Whoever changes values calls this before the model computes with them. */
  round(): void {
    if (this.rounded) copyInto(this.values, this.rounded)
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
    this.rounded?.dispose()
  }

  zeroGrads(): void {
    this.grads.zero()
  }

  /** Memory of the values, their gradients and what products read. */
  get bytes(): number {
    return this.values.bytes + this.grads.bytes + (this.rounded?.bytes ?? 0)
  }

  /** Values of all parameters together, without the padding between them. */
  get count(): number {
    return Array.from(this.byName.values()).reduce((sum, { value }) => sum + value.elements, 0)
  }
}
