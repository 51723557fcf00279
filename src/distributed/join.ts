import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import { AbortError, ConfigError, messageOf, type PlainError, reviveError } from '../errors.ts'
import { version } from '../package.ts'
import { type Ranks, ranksOf } from '../ranks.ts'
import type { Device } from '../tensor/tensor.ts'
import type { Context } from '../worker/protocol.ts'
import { alone, isFirst, ProcessGroup, type SharedContext } from './group.ts'
import { nccl } from './nccl.ts'
import { State } from './state.ts'
import type { Leaving, WatchData } from './watchThread.ts'

/**
 * Does `work` together with the other processes that the environment names, or alone. What one of them throws ends all; none
 * goes on before all are done. Only rank 0 emits events.
 * @throws {RunError} `E_RENDEZVOUS`: they did not meet; `E_RANK`: another one is gone, hangs or failed
 * @throws {DeviceError} `E_NCCL`: the library is missing, or failed
 */
export async function together<Event, Result>(
  device: Device,
  context: Context<Event>,
  work: (context: SharedContext<Event>) => Promise<Result>,
): Promise<Result> {
  const ranks = ranksOf()
  if (!ranks) return work({ ...context, group: alone })
  const watch = await startWatch(ranks, device)
  let failure: unknown
  try {
    const { state, verdicts, patienceMilliseconds } = watch
    const transport = await nccl.open(ranks, watch.id, () => state.stopped)
    const group = new ProcessGroup(ranks, device, transport, { state, verdicts, patienceMilliseconds })
    try {
      const emit = isFirst(ranks) ? context.emit : () => {}
      const result = await work({ emit, signal: group.signalFrom(context.signal), group })
      group.barrier()
      return result
    } catch (error) {
      failure = group.verdict() ?? error
      throw failure
    } finally {
      transport.close(failure !== undefined)
      group.dispose()
    }
  } catch (error) {
    failure ??= error
    throw error
  } finally {
    await watch.leave(failure)
  }
}

interface Watch {
  id: string
  state: State
  verdicts: MessagePort
  patienceMilliseconds: number
  leave(failure: unknown): Promise<void>
}

/** Seconds that a rank may be silent, or keep others waiting; the first meeting may take ten times as long. */
const defaultTimeout = 60

/** For what is under way to the other ranks when this one leaves. */
const farewellMilliseconds = 2000

const threadFile = new URL('./watchThread.js', import.meta.url)

/** Starts the thread that watches over this rank, which meets the others. */
async function startWatch(ranks: Ranks, device: Device): Promise<Watch> {
  const patienceMilliseconds = 1000 * timeoutSeconds()
  const state = new State()
  const { port1: verdicts, port2 } = new MessageChannel()
  const workerData: WatchData = {
    ranks,
    version: `loram ${version}, ${nccl.version(device)}`,
    id: isFirst(ranks) ? await nccl.createId() : '',
    meetMilliseconds: 10 * patienceMilliseconds,
    patienceMilliseconds,
    memory: state.memory,
    verdicts: port2,
    onGpu: device.kind === 'cuda',
  }
  const thread = new Worker(threadFile, { workerData, transferList: [port2] })
  const leave = async (failure: unknown) => {
    const gone = once(thread, 'exit')
    thread.postMessage((failure === undefined ? {} : { failure: describe(failure) }) satisfies Leaving)
    await Promise.race([gone, sleep(farewellMilliseconds, undefined, { ref: false })])
    await thread.terminate()
    verdicts.close()
  }
  const [met] = (await once(thread, 'message')) as [{ id: string } | { error: PlainError }]
  if ('id' in met) return { id: met.id, state, verdicts, patienceMilliseconds, leave }
  await leave(undefined)
  throw reviveError(met.error)
}

function timeoutSeconds(): number {
  const text = process.env.LORAM_TIMEOUT
  const seconds = text === undefined ? defaultTimeout : Number(text)
  if (seconds > 0) return seconds
  throw new ConfigError('E_CONFIG', 'no time that ranks may take', {
    field: 'LORAM_TIMEOUT',
    expected: 'seconds',
    found: String(text),
  })
}

const describe = (failure: unknown) => ({
  reason: `failed: ${messageOf(failure).split('\n')[0]}`,
  aborted: failure instanceof AbortError,
})
