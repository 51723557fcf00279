import { createServer, type Server, type Socket } from 'node:net'
import os from 'node:os'
import { RunError } from '../errors.ts'
import { type State, standstills, type Watched } from './state.ts'
import { type FromLeader, type FromMember, fromMember, type Verdict, Wire } from './wire.ts'

/** What the leader knows of a rank. */
interface Member {
  rank: number
  host: string
  round: number
  waits: boolean
  /** When round or waits changed last. */
  since: number
  /** None of its own. */
  wire?: Wire<FromMember, FromLeader>
}

/** Rank 0's side: it hands out the id, and judges who makes all stop. */
export class Leader {
  private readonly options: Watched
  private readonly own: State
  private readonly stop: (verdict: Verdict) => void
  private readonly members = new Map<number, Member>()
  private readonly server: Server
  private readonly stoodStill: () => boolean
  private arrived = () => {}
  private isComplete = false
  private verdict: Verdict | undefined

  /** @param stop is called once, when all must stop */
  constructor(options: Watched, own: State, stop: (verdict: Verdict) => void) {
    this.options = options
    this.own = own
    this.stop = stop
    this.stoodStill = standstills(options.patienceMilliseconds / 2)
    this.members.set(0, { rank: 0, host: os.hostname(), round: 0, waits: false, since: performance.now() })
    this.server = createServer((socket) => this.receive(socket))
  }

  /**
   * Waits until all ranks are there.
   * @throws {RunError} `E_RENDEZVOUS`: some did not come in time, or the port cannot be listened on
   */
  async meet(): Promise<string> {
    const { ranks, id, meetMilliseconds } = this.options
    if (ranks.size === 1) return id
    await this.listen()
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(this.incomplete()), meetMilliseconds)
      this.arrived = () => {
        if (this.members.size < ranks.size) return
        this.isComplete = true
        clearTimeout(timer)
        resolve()
      }
    })
    for (const { wire } of this.members.values()) wire?.send({ type: 'welcome', id })
    return id
  }

  /** Looks after all ranks; called every so often. */
  tick(): void {
    const now = performance.now()
    const stoodStill = this.stoodStill()
    this.note(0, this.own)
    for (const { rank, wire } of this.members.values()) {
      if (!wire) continue
      wire.send({ type: 'alive' })
      if (stoodStill) wire.heard = now
      if (now - wire.heard > this.options.patienceMilliseconds) this.blame(rank, 'does not answer')
    }
    const stuck = stuckRank(Array.from(this.members.values()), now - this.options.patienceMilliseconds)
    if (stuck === 'all') this.conclude({ reason: 'all ranks wait for each other', aborted: false })
    else if (stuck !== undefined) this.blame(stuck, 'keeps the others waiting')
  }

  /** This rank is done, or has failed; tells the others. */
  leave(failure?: { reason: string; aborted: boolean }): void {
    if (failure) this.blame(0, failure.reason, failure.aborted)
    for (const { wire } of this.members.values()) {
      wire?.send({ type: 'left' })
      wire?.end()
    }
    this.server.close()
  }

  private listen(): Promise<void> {
    const { address, port } = this.options.ranks
    const isLocal = ['127.0.0.1', '::1', 'localhost'].includes(address)
    return new Promise((resolve, reject) => {
      this.server.once('error', (cause) =>
        reject(
          new RunError('E_RENDEZVOUS', `rank 0 cannot listen on port ${port}`, {
            found: cause.message,
            remedy: 'set another MASTER_PORT: the port is the one after it',
            cause,
          }),
        ),
      )
      this.server.listen(port, isLocal ? address : undefined, resolve)
    })
  }

  private receive(socket: Socket): void {
    let rank: number | undefined
    const receive = (message: FromMember) => {
      if (message.type === 'hello') {
        if (this.admits(message, wire)) rank = message.rank
      } else if (rank !== undefined) this.hear(rank, message)
      else wire.close()
    }
    const closed = () => {
      if (rank === undefined || !this.members.has(rank)) return
      if (this.isComplete) this.blame(rank, 'ended')
      else this.members.delete(rank) // its launcher may start it again
    }
    const wire = new Wire<FromMember, FromLeader>(socket, fromMember, receive, closed)
  }

  private admits(hello: Extract<FromMember, { type: 'hello' }>, wire: Wire<FromMember, FromLeader>): boolean {
    const { version, ranks } = this.options
    const { rank, host } = hello
    const expected = `${version}, ${ranks.size} ranks`
    const found = `${hello.version}, ${hello.size} ranks`
    const isFree = rank > 0 && rank < ranks.size && !this.members.has(rank)
    if (found !== expected || !isFree) {
      wire.send({ type: 'refused', expected, found: isFree ? found : `rank ${rank} a second time` })
      wire.end()
      return false
    }
    this.members.set(rank, { rank, host, wire, round: 0, waits: false, since: performance.now() })
    this.arrived()
    return true
  }

  private hear(rank: number, message: FromMember): void {
    if (message.type === 'alive') this.note(rank, message)
    else if (message.type === 'failed') this.blame(rank, message.reason, message.aborted)
    else if (message.type === 'left') this.members.delete(rank)
  }

  private note(rank: number, { round, waits }: { round: number; waits: boolean }): void {
    const member = this.members.get(rank)
    if (!member || (member.round === round && member.waits === waits)) return
    Object.assign(member, { round, waits, since: performance.now() })
  }

  private blame(rank: number, reason: string, aborted = false): void {
    this.conclude({ rank, host: this.members.get(rank)!.host, reason, aborted })
  }

  private conclude(verdict: Verdict): void {
    if (this.verdict) return
    this.verdict = verdict
    for (const { wire } of this.members.values()) wire?.send({ type: 'verdict', verdict })
    this.stop(verdict)
  }

  private incomplete(): RunError {
    const { size } = this.options.ranks
    const missing = Array.from({ length: size }, (_, rank) => rank).filter((rank) => !this.members.has(rank))
    return new RunError('E_RENDEZVOUS', 'not all ranks came', {
      expected: `${size} ranks within ${this.options.meetMilliseconds / 1000} s`,
      found: `without ${missing.slice(0, 8).join(', ')}${missing.length > 8 ? ', …' : ''}`,
      remedy: 'see what these ranks printed, and whether they reach the address of rank 0',
    })
  }
}

/**
 * Who keeps others waiting since before `deadline`: the rank that met the others least often. `all`: everybody waits, so the
 * network or a library hangs.
 */
export function stuckRank(
  members: readonly { rank: number; round: number; waits: boolean; since: number }[],
  deadline: number,
): number | 'all' | undefined {
  if (!members.some(({ waits, since }) => waits && since < deadline)) return undefined
  const last = members.reduce((least, member) => (member.round < least.round ? member : least))
  if (members.some(({ round }) => round > last.round)) return last.rank
  return members.every(({ waits, since }) => waits && since < deadline) ? 'all' : undefined
}
