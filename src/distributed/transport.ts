import type { Ranks } from '../ranks.ts'
import type { Device, Tensor } from '../tensor/tensor.ts'

/**
 * What carries collectives. Every rank calls the same functions in the same order with tensors of the same shapes. What is
 * asked for begins after all that the device was asked for before, and is done when `settle` returns.
 */
export interface Transport {
  /** Sums `x`, f32, over the ranks, in place. */
  allReduce(x: Tensor): void
  /** Sums `whole`, f32, over the ranks; each gets its part. */
  reduceScatter(whole: Tensor, part: Tensor): void
  /** Puts the parts of all ranks one after another into `whole`. */
  allGather(part: Tensor, whole: Tensor): void
  settle(): void
  /** @param failed something may be under way that will never be done */
  close(failed: boolean): void
}

export interface TransportKind {
  /**
   * Name and version; ranks that differ in it do not meet.
   * @throws {LoramError} it cannot be used with `device`
   */
  version(device: Device): string
  /** Made by rank 0, for all: by it they find each other. */
  createId(): Promise<string>
  /** @param isStopped says that another rank is gone, so that nothing must be waited for */
  open(ranks: Ranks, id: string, isStopped: () => boolean): Promise<Transport>
}
