import type { Arena } from '../tensor/arena.ts'
import { hostOf } from '../tensor/device.ts'
import { awaitTransfers, transfer } from '../tensor/hostMemory.ts'
import type { Device, Tensor } from '../tensor/tensor.ts'
import type { RecomputePlan } from './recompute.ts'

/** Host memory for the layer inputs that a step offloads, of micro-batches up to `tokens`; it serves a whole run. */
export function hostInputs(
  device: Device,
  { offloaded }: RecomputePlan,
  tokens: number,
  hiddenSize: number,
): Tensor | undefined {
  return offloaded > 0 ? hostOf(device).empty([offloaded * tokens, hiddenSize], device.activations) : undefined
}

/**
 * The hidden states between layers, numbered by the layer that reads them. Those of the first `offloaded` layers pass through
 * two slots on the device, where the two after them stay: while a layer reads its input, a copy of it goes to the host; in
 * backward, while a layer reads its input, that of the layer before comes back.
 */
export class LayerInputs {
  private readonly arena: Arena
  private readonly slots: readonly Tensor[]
  private readonly onHost: readonly Tensor[]

  /**
   * @param first what enters the first layer
   * @param host what {@link hostInputs} made
   */
  constructor(first: Tensor, { offloaded }: RecomputePlan, host: Tensor | undefined) {
    this.arena = first.device as Arena
    this.slots = [first, this.arena.empty(first.shape, first.dtype)]
    const tokens = first.shape[0]!
    this.onHost = Array.from({ length: offloaded }, (_, i) => host!.rows(i * tokens, (i + 1) * tokens))
  }

  private slot = (layer: number): Tensor => this.slots[layer % 2]!

  /** Called before forward of a layer, with its input in place: where its output goes. */
  outputOf(layer: number): Tensor {
    const [first] = this.slots
    if (layer > this.onHost.length) return this.arena.empty(first!.shape, first!.dtype)
    // The output's slot held the input of the layer before, which must have reached the host.
    if (layer > 0) awaitTransfers(this.arena)
    const host = this.onHost[layer]
    if (host) transfer(this.slot(layer), host)
    return this.slot(layer + 1)
  }

  /** Called before backward of a layer: its input is in place again. */
  restore(layer: number): void {
    if (layer < this.onHost.length) awaitTransfers(this.arena)
    // The other slot is free: the layer after this one has done its backward.
    const before = this.onHost[layer - 1]
    if (before) transfer(before, this.slot(layer - 1))
  }
}
