import type { ProjectionOutputs } from '../model/block.ts'
import type { LlamaConfig } from '../model/config.ts'
import type { Arena } from '../tensor/arena.ts'
import { hostOf } from '../tensor/device.ts'
import { bytesPerElement } from '../tensor/dtype.ts'
import { awaitTransfers, lanes, transfer } from '../tensor/hostMemory.ts'
import { bytesOn, type Device, type Tensor } from '../tensor/tensor.ts'
import { outputWidths, type RecomputePlan, sendingLayers } from './recompute.ts'

// Each lane of transfers keeps its order; what waits for one does not wait for the others.
const inputLane = 0
const outputLane = (slot: number) => 1 + slot

/** What is asked of the device from now on comes after all that is offloaded, or comes back. */
export function awaitOffloads(arena: Arena): void {
  for (let lane = 0; lane < lanes; lane++) awaitTransfers(arena, lane)
}

/** Elements of matrices of activations, with the padding between rows. */
const room = (device: Device, rows: number, ...widths: number[]): number =>
  widths.reduce((sum, width) => sum + bytesOn(device, [rows, width], device.activations), 0) /
  bytesPerElement[device.activations]

/** What a step offloads of a micro-batch, in elements of activations. */
function offloadedSizes(device: Device, config: LlamaConfig, plan: RecomputePlan, tokens: number) {
  const sending = sendingLayers(config, plan)
  const widths = sending.length > 0 ? outputWidths(config, sending[0]!) : []
  const slots = Math.min(sending.length, 3 * sending.length > plan.full ? 2 : 1)
  return {
    sending,
    slots,
    /** The last ones stay in their slots. */
    sent: sending.length - slots,
    widths,
    input: room(device, tokens, config.hiddenSize),
    output: room(device, tokens, ...widths),
  }
}

/** Host memory for what a step offloads, of micro-batches up to `tokens`; it serves a whole run. */
export function offloadMemory(
  device: Device,
  config: LlamaConfig,
  plan: RecomputePlan,
  tokens: number,
): Tensor | undefined {
  const { input, output, sent } = offloadedSizes(device, config, plan, tokens)
  const elements = plan.offloaded * input + sent * output
  return elements > 0 ? hostOf(device).empty([elements], device.activations) : undefined
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
   * @param host what {@link offloadMemory} made
   */
  constructor(first: Tensor, { offloaded }: RecomputePlan, host: Tensor | undefined) {
    this.arena = first.device as Arena
    this.slots = [first, this.arena.empty(first.shape, first.dtype)]
    const [tokens, hiddenSize] = first.shape as [number, number]
    const size = room(this.arena, tokens, hiddenSize)
    this.onHost = Array.from({ length: offloaded }, (_, i) => host!.slice(i * size, first.shape))
  }

  private slot = (layer: number): Tensor => this.slots[layer % 2]!

  /** Called before forward of a layer, with its input in place: where its output goes. */
  outputOf(layer: number): Tensor {
    const [first] = this.slots
    if (layer > this.onHost.length) return this.arena.empty(first!.shape, first!.dtype)
    // The output's slot held the input of the layer before, which must have reached the host.
    if (layer > 0) awaitTransfers(this.arena, inputLane)
    const host = this.onHost[layer]
    if (host) transfer(this.slot(layer), host, inputLane)
    return this.slot(layer + 1)
  }

  /** Called before backward of a layer: its input is in place again. */
  restore(layer: number): void {
    if (layer < this.onHost.length) awaitTransfers(this.arena, inputLane)
    // The other slot is free: the layer after this one has done its backward.
    const before = this.onHost[layer - 1]
    if (before) transfer(before, this.slot(layer - 1), inputLane)
  }
}

/**
 * The outputs of q, k, v, gate and up of the layers that send them to the host, {@link sendingLayers}. They lie in one slot on
 * the device, or in two in turn: while the next layers run, those of a slot are under way; in backward, those of the sending
 * layer before come back as soon as a slot is free.
 */
export class LayerOutputs {
  private readonly arena: Arena
  private readonly tokens: number
  private readonly widths: readonly number[]
  private readonly slots: readonly Tensor[]
  private readonly onHost: readonly Tensor[]
  /** By layer, where it comes among those that send. */
  private readonly places: ReadonlyMap<number, number>

  /** @param host what {@link offloadMemory} made */
  constructor(arena: Arena, config: LlamaConfig, plan: RecomputePlan, tokens: number, host: Tensor | undefined) {
    const { sending, slots, sent, widths, input, output } = offloadedSizes(arena, config, plan, tokens)
    this.arena = arena
    this.tokens = tokens
    this.widths = widths
    this.slots = Array.from({ length: slots }, () => arena.empty([output], arena.activations))
    const start = plan.offloaded * input
    this.onHost = Array.from({ length: sent }, (_, i) => host!.slice(start + i * output, [output]))
    this.places = new Map(sending.map((layer, place) => [layer, place]))
  }

  private slotOf = (place: number): number => place % this.slots.length

  /** Where a layer's outputs go, or are again; `undefined`: it does not send them. */
  of(layer: number, areMade: boolean): ProjectionOutputs | undefined {
    const place = this.places.get(layer)
    if (place === undefined) return undefined
    const index = this.slotOf(place)
    awaitTransfers(this.arena, outputLane(index))
    let from = 0
    const outputs = this.widths.map((width) => {
      const output = this.slots[index]!.slice(from, [this.tokens, width])
      from += room(this.arena, this.tokens, width)
      return output
    })
    return { qkv: outputs.slice(0, 3), gateUp: outputs.slice(3), areMade }
  }

  /** Called after forward of a layer. */
  send(layer: number): void {
    const place = this.places.get(layer)
    const host = place === undefined ? undefined : this.onHost[place]
    if (host) transfer(this.slots[this.slotOf(place!)]!, host, outputLane(this.slotOf(place!)))
  }

  /** Called after backward of a layer: its slot is free for those that lay there before. */
  restoreBefore(layer: number): void {
    const place = this.places.get(layer)
    const host = place === undefined ? undefined : this.onHost[place - this.slots.length]
    if (host) transfer(host, this.slots[this.slotOf(place!)]!, outputLane(this.slotOf(place!)))
  }
}
