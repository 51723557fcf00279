import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { lastLine, loram, type Outcome, type Running, writeRecords, writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { checkpointsIn, startRanks } from './support.ts'

const dir = scratchFolder()
const at = (name: string) => path.join(dir, name)

beforeAll(() => {
  writeTinyModel(at('model'))
  writeRecords(at('train.jsonl'), 44)
  writeRecords(at('eval.jsonl'), 10)
  writeFileSync(at('corpus.txt'), 'The quick brown fox jumps over the lazy dog. '.repeat(30))
})

const base = [
  ...['train', '--model', at('model'), '--data.train', at('train.jsonl'), '--data.sequence-length', '32'],
  ...['--device', 'cpu', '--json', '--train.batch-size', '5', '--train.micro-batch-size', '1'],
]

const finished = (ranks: readonly { finished: Promise<Outcome> }[]) => Promise.all(ranks.map((rank) => rank.finished))

describe('as many processes as one likes', () => {
  /** Nine steps an epoch, the last with four of five micro-batches, which no number of ranks divides. */
  const args = [
    ...[...base, '--data.eval', at('eval.jsonl'), '--train.max-steps', '30', '--train.epochs', '4'],
    ...['--align.data', at('corpus.txt'), '--align.steps', '12', '--align.batch-size', '5'],
    ...['--align.micro-batch-size', '1', '--align.sequence-length', '24', '--align.learning-rate', '1e-3'],
    ...['--train.preserve.data', at('corpus.txt'), '--recover.finish.steps', '4'],
    ...['--prune.layers', '1,3', '--prune.ratio', '0.5', '--train.eval-steps', '15'],
  ]
  const events = ({ stdout }: Outcome, type: string): { stage: string; step: number; loss: number }[] =>
    stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
      .filter((event) => event.type === type)

  test('compute what one does, stop together, and go on in another number', async () => {
    const one = await loram(...args, '--output', at('one'))
    const output = ['--output', at('several'), '--resume']
    const parts = [
      await stoppedAt('align 1/12', 1, await startRanks(3, [...args, ...output])),
      await stoppedAt('train 1/30', 0, await startRanks(2, [...args, ...output])),
      await loram(...args, ...output),
    ]
    expect(parts.at(-1)!.exitCode).toBe(0)
    for (const type of ['step', 'evaluation']) {
      const expected = events(one, type)
      const found = parts.flatMap((part) => events(part, type))
      expect(found.map(({ stage, step }) => [stage, step])).toEqual(expected.map(({ stage, step }) => [stage, step]))
      // Sums of the same micro-batches in another order: some roundings of f32, which training carries on
      for (const [i, { loss }] of found.entries()) expect(loss / expected[i]!.loss - 1).toBeCloseTo(0, 5)
    }
  })

  /** Asks one of the ranks to stop, once the leader has said `text`. What the leader printed. */
  async function stoppedAt(text: string, asked: number, ranks: Running[]): Promise<Outcome> {
    await ranks[0]!.seen(text)
    ranks[asked]!.process.kill('SIGTERM')
    const [leader, ...others] = await finished(ranks)
    expect([leader!, ...others].map(({ exitCode }) => exitCode)).toEqual(ranks.map(() => 130))
    for (const { stdout } of others) expect(JSON.parse(stdout).error.code).toBe('E_ABORTED')
    return leader!
  }
})

describe('where one rank', () => {
  const args = [...base, '--train.max-steps', '100000', '--train.epochs', '100000', '--train.save-steps', '1']

  test.concurrent.each([
    ['is killed', 'SIGKILL', 'ended', null],
    ['stands still', 'SIGSTOP', 'does not answer', 5],
    ['hangs in its GPU', undefined, 'all ranks wait for each other', null],
  ] as const)('%s, the other says so, and the last checkpoint is whole', async (name, signal, reason, exitCode) => {
    const env = { LORAM_TIMEOUT: '3', ...(!signal && { LORAM_FAULT: '1 20' }) }
    const ranks = await startRanks(2, [...args, '--output', at(name)], env)
    const { process: victim } = ranks[1]!
    await ranks[0]!.seen('"checkpoint"')
    if (signal) victim.kill(signal)
    const survivor = await ranks[0]!.finished
    victim.kill('SIGCONT')
    expect(survivor.exitCode).toBe(5)
    expect(lastLine(survivor.stdout).error).toMatchObject({ code: 'E_RANK', message: expect.stringContaining(reason) })
    if (signal) expect(survivor.stderr).toContain('rank 1 on ')
    expect((await ranks[1]!.finished).exitCode).toBe(exitCode)
    expectWhole(at(name))
  })

  /** The newest checkpoint has what it says it has. */
  function expectWhole(output: string) {
    const folder = path.join(output, 'run/checkpoints', checkpointsIn(output).at(-1)!)
    const { sha256 } = JSON.parse(readFileSync(path.join(folder, 'state.json'), 'utf8'))
    for (const [file, digest] of Object.entries(sha256)) {
      const bytes = readFileSync(path.join(folder, file))
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(digest)
    }
  }
})
