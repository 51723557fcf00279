// The thread that watches over a rank: the one that trains is busy for a whole step, or waits for others for ever. It meets
// the other ranks, tells them that this one is alive, and stops it when one of them is not.
import { writeSync } from 'node:fs'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { plainError } from '../errors.ts'
import { addon } from '../native/load.ts'
import { Leader } from './leader.ts'
import { Member } from './member.ts'
import { State, type Watched } from './state.ts'
import type { Verdict } from './wire.ts'

const { memory, verdicts, onGpu, ...watched } = workerData as WatchData
const port = parentPort!
const state = new State(memory)
const { patienceMilliseconds } = watched
const side = new (watched.ranks.rank === 0 ? Leader : Member)(watched, state, stop)

/** What the training thread gives this one. */
export interface WatchData extends Watched {
  memory: SharedArrayBuffer
  /** Carries the verdict to a thread that looks at nothing else. */
  verdicts: MessagePort
  onGpu: boolean
}

/** From the training thread: it is done, or has failed. */
export interface Leaving {
  failure?: { reason: string; aborted: boolean }
}

port.on('message', ({ failure }: Leaving) => {
  hasLeft = true
  side.leave(failure)
  port.close()
  clearInterval(ticking)
  clearTimeout(lastResort)
})

let hasLeft = false
let ticking: NodeJS.Timeout | undefined
let lastResort: NodeJS.Timeout | undefined

try {
  const id = await side.meet()
  ticking = setInterval(() => side.tick(), Math.min(1000, patienceMilliseconds / 10))
  port.postMessage({ id })
} catch (error) {
  port.postMessage({ error: plainError(error) })
}

function stop(verdict: Verdict): void {
  if (state.stopped || hasLeft) return
  verdicts.postMessage(verdict)
  state.stop()
  if (onGpu) addon().ncclAbort()
  // Nothing else ends a thread that hangs in the GPU's driver
  lastResort = setTimeout(() => {
    writeSync(2, `loram: rank ${watched.ranks.rank} hangs, and is killed\n`)
    process.kill(process.pid, 'SIGKILL')
  }, patienceMilliseconds)
}
