import { createConnection } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Leader, stuckRank } from '../../src/distributed/leader.ts'
import { Member } from '../../src/distributed/member.ts'
import { State } from '../../src/distributed/state.ts'
import type { Verdict } from '../../src/distributed/wire.ts'
import { masterPort } from './support.ts'

const patienceMilliseconds = 300

/** A rank without a process: what the thread that watches it does. */
class Rank {
  readonly state = new State()
  readonly side: Leader | Member
  /** Why it must stop. */
  readonly verdict: Promise<Verdict>
  private ticking: NodeJS.Timeout | undefined

  constructor(rank: number, size: number, port: number, version = 'loram 1') {
    const ranks = { rank, size, localRank: 0, address: '127.0.0.1', port }
    const options = { ranks, version, id: rank === 0 ? 'the id' : '', meetMilliseconds: 1000, patienceMilliseconds }
    let stop = (_: Verdict) => {}
    this.verdict = new Promise((resolve) => {
      stop = resolve
    })
    this.side = new (rank === 0 ? Leader : Member)(options, this.state, (verdict) => stop(verdict))
    onTestFinished(() => this.leave())
  }

  async meet(): Promise<string> {
    const id = await this.side.meet()
    this.ticking = setInterval(() => this.side.tick(), patienceMilliseconds / 10)
    return id
  }

  /** Says no more, as a process that stands still. */
  freeze(): void {
    clearInterval(this.ticking)
  }

  leave(failure?: { reason: string; aborted: boolean }): void {
    this.freeze()
    this.side.leave(failure)
  }
}

async function threeRanks(): Promise<[Rank, Rank, Rank]> {
  const port = await masterPort()
  const ranks = [0, 1, 2].map((rank) => new Rank(rank, 3, port)) as [Rank, Rank, Rank]
  await Promise.all(ranks.map((rank) => rank.meet()))
  return ranks
}

const verdicts = (ranks: readonly Rank[]) => Promise.all(ranks.map(({ verdict }) => verdict))

describe('ranks meet', () => {
  test('whoever comes first, and all get what rank 0 hands out', async () => {
    const port = await masterPort()
    const early = [2, 1].map((rank) => new Rank(rank, 3, port).meet())
    await new Promise((later) => setTimeout(later, 50))
    const ids = await Promise.all([...early, new Rank(0, 3, port).meet()])
    expect(ids).toEqual(['the id', 'the id', 'the id'])
  })

  test('although others talk to the port', async () => {
    const port = await masterPort()
    const leader = new Rank(0, 2, port).meet()
    for (const noise of ['GET / HTTP/1.1\r\n\r\n', '{"type":"alive","round":1,"waits":true}\n', 'x'.repeat(1 << 17)]) {
      await new Promise<void>((closed) => {
        const socket = createConnection(port, '127.0.0.1', () => socket.write(noise))
        socket.on('error', () => {}).on('close', () => closed())
      })
    }
    const member = new Rank(1, 2, port).meet()
    expect(await Promise.all([leader, member])).toEqual(['the id', 'the id'])
  })

  test('but not in different versions, or two by one number', async () => {
    const port = await masterPort()
    const ranks = [new Rank(0, 3, port), new Rank(1, 3, port)]
    const meetings = ranks.map((rank) => rank.meet())
    const refused = { code: 'E_RENDEZVOUS', message: expect.stringContaining('rank 0 runs something else') }
    await expect(new Rank(2, 3, port, 'loram 2').meet()).rejects.toMatchObject(refused)
    await expect(new Rank(1, 3, port).meet()).rejects.toMatchObject(refused)
    const last = new Rank(2, 3, port)
    await Promise.all([...meetings, last.meet()])
  })

  test('or not, and say who is missing', async () => {
    const port = await masterPort()
    const ranks = [new Rank(0, 3, port), new Rank(1, 3, port), new Rank(0, 3, port)]
    const [leader, member, second] = await Promise.allSettled(ranks.map((rank) => rank.meet()))
    expect(leader).toMatchObject({ reason: { code: 'E_RENDEZVOUS', details: { found: 'without 2' } } })
    expect(member).toMatchObject({ reason: { code: 'E_RENDEZVOUS' } })
    expect(second).toMatchObject({ reason: { headline: `rank 0 cannot listen on port ${port}` } })
  })
})

describe('all stop where one', () => {
  test('fails, and hear why', async () => {
    const ranks = await threeRanks()
    ranks[1].leave({ reason: 'failed: [E_CUDA] the GPU failed', aborted: false })
    for (const verdict of await verdicts([ranks[0], ranks[2]])) {
      expect(verdict).toMatchObject({ rank: 1, reason: 'failed: [E_CUDA] the GPU failed', aborted: false })
    }
  })

  test('is asked to stop where it does not wait for others', async () => {
    const ranks = await threeRanks()
    ranks[0].leave({ reason: 'aborted', aborted: true })
    for (const verdict of await verdicts([ranks[1], ranks[2]]))
      expect(verdict).toMatchObject({ rank: 0, aborted: true })
  })

  test.each([0, 1])('says nothing any more: rank %i', async (silent) => {
    const ranks = await threeRanks()
    ranks[silent]!.freeze()
    const others = ranks.filter((_, rank) => rank !== silent)
    for (const verdict of await verdicts(others)) {
      expect(verdict).toMatchObject({ rank: silent, reason: 'does not answer' })
    }
  })

  test.each([0, 1])('keeps the others waiting: rank %i', async (slow) => {
    const ranks = await threeRanks()
    for (const { state } of ranks.filter((_, rank) => rank !== slow)) state.enter(false)
    for (const verdict of await verdicts(ranks)) {
      expect(verdict).toMatchObject({ rank: slow, reason: 'keeps the others waiting' })
    }
  })

  test('does not: those who are done may leave, and who waits patiently may wait', async () => {
    const ranks = await threeRanks()
    ranks[2].leave()
    ranks[1].state.enter(true)
    const stopped = Promise.race(ranks.slice(0, 2).map(({ verdict }) => verdict))
    const time = new Promise((later) => setTimeout(later, 2 * patienceMilliseconds, 'nobody stopped'))
    expect(await Promise.race([stopped, time])).toBe('nobody stopped')
  })
})

test('who waits for whom', () => {
  const waiting = (rank: number, round: number, since: number) => ({ rank, round, waits: true, since })
  const working = (rank: number, round: number) => ({ rank, round, waits: false, since: 0 })
  expect(stuckRank([waiting(0, 5, 0), waiting(1, 5, 0), working(2, 4)], 10)).toBe(2)
  expect(stuckRank([waiting(0, 5, 20), working(1, 4)], 10)).toBeUndefined()
  expect(stuckRank([waiting(0, 5, 0), waiting(1, 5, 0)], 10)).toBe('all')
  // one is done with the round and computes
  expect(stuckRank([waiting(0, 5, 0), working(1, 5)], 10)).toBeUndefined()
})
