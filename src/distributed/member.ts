import { createConnection, type Socket } from 'node:net'
import os from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { RunError } from '../errors.ts'
import { type State, standstills, type Watched } from './state.ts'
import { type FromLeader, type FromMember, fromLeader, type Verdict, Wire } from './wire.ts'

const retryMilliseconds = 200

/** The side of every rank but 0. */
export class Member {
  private readonly options: Watched
  private readonly own: State
  private readonly stop: (verdict: Verdict) => void
  private wire: Wire<FromLeader, FromMember> | undefined
  private hasLeft = false
  private readonly stoodStill: () => boolean

  /** @param stop is called when all must stop */
  constructor(options: Watched, own: State, stop: (verdict: Verdict) => void) {
    this.options = options
    this.own = own
    this.stop = stop
    this.stoodStill = standstills(options.patienceMilliseconds / 2)
  }

  /**
   * Finds the leader and gives what it hands out.
   * @throws {RunError} `E_RENDEZVOUS`: there is none in time, or it refuses this rank
   */
  async meet(): Promise<string> {
    const { ranks, meetMilliseconds } = this.options
    const deadline = performance.now() + meetMilliseconds
    for (;;) {
      const socket = await connect(ranks.address, ranks.port)
      if (!(socket instanceof Error)) return this.introduce(socket, deadline - performance.now())
      if (performance.now() > deadline) throw this.noLeader(socket.message)
      await sleep(retryMilliseconds)
    }
  }

  /** Says that this rank is alive, and whether the leader is; called every so often. */
  tick(): void {
    const { round, waits } = this.own
    const wire = this.wire!
    wire.send({ type: 'alive', round, waits })
    const now = performance.now()
    if (this.stoodStill()) wire.heard = now
    if (now - wire.heard > this.options.patienceMilliseconds) this.blame('does not answer')
  }

  leave(failure?: { reason: string; aborted: boolean }): void {
    this.hasLeft = true
    this.wire?.send(failure ? { type: 'failed', ...failure } : { type: 'left' })
    this.wire?.end()
  }

  private introduce(socket: Socket, milliseconds: number): Promise<string> {
    const { version, ranks } = this.options
    const { rank, size } = ranks
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(this.noLeader('it waits for other ranks')), milliseconds)
      const receive = (message: FromLeader) => {
        if (message.type === 'welcome') {
          clearTimeout(timer)
          resolve(message.id)
        } else if (message.type === 'refused') reject(refused(message))
        else if (message.type === 'verdict') this.stop(message.verdict)
        else if (message.type === 'left') this.hasLeft = true
      }
      const closed = () => {
        clearTimeout(timer)
        reject(this.noLeader('it closed the connection'))
        if (!this.hasLeft) this.blame('ended')
      }
      this.wire = new Wire<FromLeader, FromMember>(socket, fromLeader, receive, closed)
      this.wire.send({ type: 'hello', version, rank, size, host: os.hostname() })
    })
  }

  private blame(reason: string): void {
    this.stop({ rank: 0, host: this.options.ranks.address, reason, aborted: false })
  }

  private noLeader(found: string): RunError {
    const { ranks, meetMilliseconds } = this.options
    return new RunError('E_RENDEZVOUS', 'the ranks did not meet', {
      expected: `rank 0 at ${ranks.address}, port ${ranks.port}, within ${meetMilliseconds / 1000} s`,
      found,
      remedy: 'see what rank 0 printed, and whether MASTER_ADDR and MASTER_PORT are right',
    })
  }
}

const refused = ({ expected, found }: Extract<FromLeader, { type: 'refused' }>) =>
  new RunError('E_RENDEZVOUS', 'rank 0 runs something else', {
    expected,
    found,
    remedy: 'start all ranks at once, with the same versions',
  })

const connect = (host: string, port: number): Promise<Socket | Error> =>
  new Promise((resolve) => {
    const socket = createConnection({ host, port })
    socket.once('connect', () => resolve(socket))
    socket.once('error', resolve)
  })
