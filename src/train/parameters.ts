import { alone, type Group, type Share } from '../distributed/group.ts'
import { copyInto } from '../native/cast.ts'
import { elements } from '../tensor/dtype.ts'
import { writePieces } from '../tensor/pieces.ts'
import { type Device, type Tensor, zeros } from '../tensor/tensor.ts'

/** Each parameter begins on such a boundary of the flat buffers: 256 bytes. */
const alignment = 64

/** Rows of a matrix that products read as it lies are a multiple of so many elements. */
const rowAlignment = 8

const roundUp = (size: number, step: number): number => Math.ceil(size / step) * step

/** A trained tensor and the gradient that a step adds up for it, of the same shape. */
export interface Trained {
  readonly value: Tensor
  readonly grad: Tensor
}

/** Where processes divide the values, `value` is the gradient's memory, and has them after {@link ParameterSet.gather} alone. */
export interface Parameter extends Trained {
  /** What the model computes with: `value`, or its copy in another dtype. */
  readonly operand: Tensor
}

/**
 * The trained tensors of a run, f32, in one flat buffer, and their gradients in another: the optimizer, the gradient norm
 * and a checkpoint each take one pass over one array.
 *
 * Several processes may divide them (ZeRO, arXiv 1910.02054): each keeps a part of the f32 values, for which it also keeps
 * the optimizer's state. All have all gradients, and copies of all values that the model computes with.
 */
export class ParameterSet {
  /** The values, or this process's part of them. */
  readonly values: Tensor
  /** Of all values. Outside of a step there is room in it for what is gathered. */
  readonly grads: Tensor
  /** Of what `values` has. */
  readonly ownGrads: Tensor
  /** The values in the device's dtype of activations, where that is not f32: `round` renews it. */
  readonly rounded: Tensor | undefined
  readonly byName: ReadonlyMap<string, Parameter>
  /** Of all values, with the padding between them. */
  readonly size: number
  readonly isDivided: boolean
  private readonly offset: number

  /**
   * @param options `rounds`: whether products read a copy of the values in the device's dtype of activations; `share`: of the
   *   processes that divide them, which have such copies in any case
   */
  constructor(
    device: Device,
    shapes: ReadonlyMap<string, readonly number[]>,
    { rounds = false, share = alone }: { rounds?: boolean; share?: Share } = {},
  ) {
    let size = 0
    const offsets = Array.from(shapes.values(), (shape) => {
      const offset = size
      size += roundUp(elements(shape), alignment)
      return offset
    })
    const own = roundUp(size, share.size * alignment) / share.size
    this.size = size
    this.isDivided = share.size > 1
    this.offset = share.rank * own
    this.values = zeros(device, [own], 'f32')
    this.grads = zeros(device, [own * share.size], 'f32')
    this.ownGrads = this.grads.slice(this.offset, [own])
    if (rounds && device.activations !== 'f32') this.rounded = zeros(device, [size], device.activations)
    const operandAt = (offset: number, shape: readonly number[]) => {
      if (this.isDivided) return device.empty(shape, shape.length > 1 ? device.activations : 'f32')
      const width = shape.at(-1)!
      return width % rowAlignment === 0 ? this.rounded?.slice(offset, shape, width) : undefined
    }
    this.byName = new Map(
      Array.from(shapes, ([name, shape], i) => {
        const offset = offsets[i]!
        const grad = this.grads.slice(offset, shape)
        const value = this.isDivided ? grad : this.values.slice(offset, shape)
        return [name, { value, grad, operand: operandAt(offset, shape) ?? value }]
      }),
    )
  }

  /** Whoever changes values, all of them where they are divided, calls this before the model computes with them. */
  round(): void {
    if (this.rounded) copyInto(this.values, this.rounded)
    if (!this.isDivided) return
    copyInto(this.ownGrads, this.values)
    for (const { value, operand } of this.byName.values()) copyInto(value, operand)
  }

  /** Brings what this process changed of its part to the others, and theirs here. */
  publish(group: Group): void {
    if (this.isDivided) this.collect(this.values, group)
    this.round()
  }

  /**
   * All of `values`, or of something that is divided as they are. Of several processes each must call it; what it gives lies in
   * the gradients until the next step.
   */
  gather(part: Tensor, group: Group): Tensor {
    if (!this.isDivided) return part
    group.barrier()
    this.collect(part, group)
    return this.grads.slice(0, [this.size])
  }

  /** Fills `part`, which is divided as `values` are, from the bytes of what {@link gather} gave. */
  restore(part: Tensor, readInto: (target: Uint8Array, from: number) => void): void {
    const start = 4 * this.offset
    const length = Math.min(part.bytes, Math.max(0, 4 * this.size - start))
    writePieces(part, (target, from) => readInto(target, start + from), length)
  }

  /** A parameter in f32, or what of it is in this process's part, as a matrix of any shape; `undefined` where nothing is. */
  ownOf(name: string): Trained | undefined {
    const parameter = this.get(name)
    if (!this.isDivided) return parameter
    const { grad } = parameter
    const start = (grad.memory.byteOffset - this.ownGrads.memory.byteOffset) / 4
    const [from, to] = [Math.max(0, start), Math.min(this.values.elements, start + grad.elements)]
    if (from >= to) return undefined
    const view = (flat: Tensor) => flat.slice(from, [1, to - from])
    return { value: view(this.values), grad: view(this.ownGrads) }
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
    for (const { operand } of this.byName.values()) operand.dispose()
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
    return Array.from(this.byName.values()).reduce((sum, { grad }) => sum + grad.elements, 0)
  }

  private collect(part: Tensor, group: Group): void {
    group.collect(part, this.grads)
    group.settle()
  }
}
