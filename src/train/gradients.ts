import { alone, type Group, total } from '../distributed/group.ts'
import { clipGradNorm } from '../native/optimizer.ts'
import type { Arena } from '../tensor/arena.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { ParameterSet } from './parameters.ts'

/** What is added up at once: less would not fill the connection, more would begin later. */
const bucketElements = (25 << 20) / 4

/** A run of the flat gradients, complete once backward of `layer` is done, or of all layers where that is below 0. */
interface Bucket {
  layer: number
  grads: Tensor
}

/**
 * Adds the gradients of all ranks up, those of the last layers while backward is still at the first ones: parameters lie in the
 * order of the layers. All ranks do it in the same pieces, also one that has no micro-batch.
 */
export class GradientSum {
  private readonly group: Group
  private readonly parameters: ParameterSet
  private readonly buckets: Bucket[]

  constructor(group: Group, parameters: ParameterSet) {
    this.group = group
    this.parameters = parameters
    this.buckets = group === alone || parameters.isDivided ? [] : bucketsOf(parameters)
  }

  /** Backward of a layer is done, and of those after it. */
  layerDone(layer: number): void {
    while (this.buckets[0] && this.buckets[0].layer >= layer) this.group.sum(this.buckets.shift()!.grads)
  }

  /** All gradients of this rank are there; when this returns, its own ones are sums over all ranks. */
  finish(): void {
    const { grads, ownGrads, isDivided } = this.parameters
    if (isDivided) this.group.sumPart(grads, ownGrads)
    else this.layerDone(Number.NEGATIVE_INFINITY)
    this.group.settle()
  }
}

/**
 * Scales the gradients that this process keeps so that the norm of all together is at most `maxNorm`; 0 leaves them as they
 * are. The norm before can be read from the result.
 */
export function clip(group: Group, parameters: ParameterSet, maxNorm: number, arena: Arena): { item(): number } {
  const { ownGrads, isDivided } = parameters
  if (!isDivided) return clipGradNorm(ownGrads, maxNorm, arena)
  const own = clipGradNorm(ownGrads, 0, arena).item()
  const [squares] = total(group, [own ** 2])
  const norm = Math.sqrt(squares)
  if (maxNorm > 0 && norm > maxNorm) clipGradNorm(ownGrads, (own * maxNorm) / norm, arena)
  return { item: () => norm }
}

/** From the end to the start; none divides a layer. */
function bucketsOf({ grads, byName }: ParameterSet): Bucket[] {
  const starts = Array.from(byName, ([name, { grad }]) => ({
    layer: layerOf(name),
    offset: (grad.memory.byteOffset - grads.memory.byteOffset) / 4,
  }))
  const buckets: Bucket[] = []
  let end = grads.elements
  for (const [i, { layer, offset }] of Array.from(starts.entries()).reverse()) {
    const beginsLayer = starts[i - 1]?.layer !== layer
    if (i > 0 && !(beginsLayer && end - offset >= bucketElements)) continue
    buckets.push({ layer, grads: grads.slice(offset, [end - offset]) })
    end = offset
  }
  return buckets
}

/** The layer that a parameter belongs to; the embedding comes before all, norm and head after. */
function layerOf(name: string): number {
  const [, layer] = /^model\.layers\.(\d+)\./.exec(name) ?? []
  if (layer !== undefined) return Number(layer)
  return name.startsWith('model.embed_tokens.') ? -1 : Number.POSITIVE_INFINITY
}
