import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { AbortError, DeviceError, type LoramError, RunError } from '../errors.ts'
import { onDevice } from '../native/gpuErrors.ts'
import { addon } from '../native/load.ts'
import type { Ranks } from '../ranks.ts'
import type { Device, Tensor } from '../tensor/tensor.ts'
import type { Context, StopSignal } from '../worker/protocol.ts'
import type { State } from './state.ts'
import type { Transport } from './transport.ts'
import type { Verdict } from './wire.ts'

/** Which of the parts of some work falls to this process: every `size`th, from `rank` on. */
export interface Share {
  readonly rank: number
  readonly size: number
}

/**
 * The processes that work on one run. Each calls the same functions in the same order; where one does not, or is gone, all
 * others throw.
 */
export interface Group extends Share {
  /** Adds up `x`, f32, over all ranks, in place. It must not be touched before {@link settle}. */
  sum(x: Tensor): void
  /** Adds up `whole`, f32, over all ranks, and leaves in `part` what falls to this one; until {@link settle} as well. */
  sumPart(whole: Tensor, part: Tensor): void
  /** Brings the parts of all ranks together in `whole`. */
  collect(part: Tensor, whole: Tensor): void
  /** Waits until all that was asked for is done. */
  settle(): void
  /** The numbers of all ranks, a few each, by rank. */
  gather(values: readonly number[]): number[][]
  /** Waits, for as long as it takes, until all ranks are here. */
  barrier(): void
}

/** What work of several processes is given besides its options. */
export interface SharedContext<Event> extends Context<Event> {
  readonly group: Group
}

/** One process alone. */
export const alone: Group = {
  rank: 0,
  size: 1,
  sum() {},
  sumPart() {},
  collect() {},
  settle() {},
  gather: (values) => [[...values]],
  barrier() {},
}

export const isFirst = ({ rank }: Share): boolean => rank === 0

/** Those of `items` that fall to a rank. */
export function* shareOf<Item>(items: Iterable<Item>, { rank, size }: Share): Generator<Item> {
  let i = 0
  for (const item of items) if (i++ % size === rank) yield item
}

/** What rank 0 says; the others wait for it as long as it takes. */
export function ruling(group: Group, value: boolean): boolean {
  group.barrier()
  return group.gather([Number(value)])[0]![0] === 1
}

/** Does `work` on rank 0 before the others do it, which then find what it left in a cache. */
export async function firstBeforeOthers<Result>(group: Group, work: () => Promise<Result>): Promise<Result> {
  if (!isFirst(group)) group.barrier()
  const result = await work()
  if (isFirst(group)) group.barrier()
  return result
}

/** Sums over all ranks, the same on each. */
export function total<const Values extends readonly number[]>(
  group: Group,
  values: Values,
): { -readonly [Key in keyof Values]: number } {
  const rows = group.gather(values)
  return values.map((_, i) => rows.reduce((sum, row) => sum + row[i]!, 0)) as {
    -readonly [Key in keyof Values]: number
  }
}

/** More than anybody gathers. */
const numbersAtOnce = 8
const bytesPerNumber = 8

/** Several processes. What waits for others ends by itself where one of them is gone. */
export class ProcessGroup implements Group {
  readonly rank: number
  readonly size: number
  private readonly device: Device
  /** What {@link gather} sends and gets. */
  private readonly part: Tensor
  private readonly whole: Tensor
  private readonly transport: Transport
  private readonly state: State
  private readonly verdicts: MessagePort
  private readonly patienceMilliseconds: number
  private heard: LoramError | undefined

  constructor(
    { rank, size }: Ranks,
    device: Device,
    transport: Transport,
    watch: { state: State; verdicts: MessagePort; patienceMilliseconds: number },
  ) {
    this.rank = rank
    this.size = size
    this.device = device
    this.part = device.empty([numbersAtOnce * bytesPerNumber], 'u8')
    this.whole = device.empty([size * numbersAtOnce * bytesPerNumber], 'u8')
    this.transport = transport
    this.state = watch.state
    this.verdicts = watch.verdicts
    this.patienceMilliseconds = watch.patienceMilliseconds
  }

  sum(x: Tensor): void {
    this.meet(() => this.transport.allReduce(x))
  }

  sumPart(whole: Tensor, part: Tensor): void {
    this.meet(() => this.transport.reduceScatter(whole, part))
  }

  collect(part: Tensor, whole: Tensor): void {
    this.meet(() => this.transport.allGather(part, whole))
  }

  settle(): void {
    // A GPU that hangs in work of its own must not look as if it waited for others
    if (this.device.kind === 'cuda') onDevice(() => addon().synchronize())
    this.meet(() => this.transport.settle())
  }

  gather(values: readonly number[]): number[][] {
    return this.exchange(values, false)
  }

  barrier(): void {
    this.exchange([0], true)
  }

  /** A signal that also says that all must stop because of another rank. */
  signalFrom(signal: StopSignal): StopSignal {
    const { state } = this
    return {
      get aborted() {
        return signal.aborted || state.stopped
      },
    }
  }

  /** Why all must stop, if they must. */
  verdict(): LoramError | undefined {
    if (this.state.stopped) this.heard ??= errorOf(receiveMessageOnPort(this.verdicts)!.message)
    return this.heard
  }

  dispose(): void {
    for (const tensor of [this.part, this.whole]) tensor.dispose()
  }

  private exchange(values: readonly number[], patiently: boolean): number[][] {
    this.part.write(Float64Array.from(values))
    this.meet(() => {
      this.transport.allGather(this.part, this.whole)
      this.transport.settle()
    }, patiently)
    const all = new Float64Array((this.whole.read() as Uint8Array).buffer)
    return Array.from({ length: this.size }, (_, rank) => {
      const from = rank * numbersAtOnce
      return [...all.subarray(from, from + values.length)]
    })
  }

  /** Does what waits for the others. */
  private meet(work: () => void, patiently = false): void {
    this.state.enter(patiently)
    try {
      work()
    } catch (error) {
      // Where a rank is gone, the others may fail in NCCL before they hear of it
      if (error instanceof DeviceError && error.code === 'E_NCCL') this.state.awaitStop(this.patienceMilliseconds)
      throw this.verdict() ?? error
    } finally {
      this.state.leave()
    }
    const verdict = this.verdict()
    if (verdict) throw verdict
  }
}

function errorOf({ rank, host, reason, aborted }: Verdict): LoramError {
  const who = rank === undefined ? '' : `rank ${rank} on ${host} `
  if (aborted) return new AbortError(`${who}was asked to stop`, { remedy: 'resume to go on' })
  return new RunError('E_RANK', `${who}${reason}`, {
    remedy: 'see what that rank printed; resume to go on from the last checkpoint',
  })
}
