import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { nccl } from '../../src/distributed/nccl.ts'
import { messageOf } from '../../src/errors.ts'
import { cpu, cudaStatus, openDevice } from '../../src/tensor/device.ts'
import { type Device, tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { type Outcome, start, writeRecords, writeTinyModel } from '../cli/support.ts'
import { expectError, scratchFolder } from '../formats/scratch.ts'

afterEach(() => vi.unstubAllEnvs())

test('processes without a GPU are refused', () => {
  expectError(() => nccl.version(cpu), 'E_CONFIG', { field: 'device', found: 'cpu' })
})

const reason = cudaStatus() || whyNoNccl()
if (reason) test.skip(`NCCL with one rank (skipped: ${reason})`)
else describe('NCCL with one rank', () => withOneRank(openDevice('cuda')))

function whyNoNccl(): string {
  try {
    nccl.version(openDevice('cuda'))
    return ''
  } catch (error) {
    return messageOf(error)
  }
}

function withOneRank(device: Device): void {
  const dir = scratchFolder()
  const library = process.env.LORAM_NCCL ?? 'libnccl.so.2'

  test('gives what is put in', async () => {
    const ranks = { rank: 0, size: 1, localRank: 0, address: '127.0.0.1', port: 1 }
    const transport = await nccl.open(ranks, await nccl.createId(), () => false)
    const values = Float32Array.from({ length: 1000 }, (_, i) => i / 7)
    const [x, part, whole] = [tensorFrom(device, values), zeros(device, [1000], 'f32'), zeros(device, [1000], 'f32')]
    transport.allReduce(x)
    transport.reduceScatter(x, part)
    transport.allGather(part, whole)
    transport.settle()
    for (const tensor of [x, part, whole]) expect(tensor.read()).toEqual(values)
    transport.close(false)
  })

  test('aligns and trains as one process without it', async () => {
    writeTinyModel(path.join(dir, 'model'))
    writeRecords(path.join(dir, 'train.jsonl'), 44)
    writeFileSync(path.join(dir, 'corpus.txt'), 'The quick brown fox jumps over the lazy dog. '.repeat(30))
    const args = [
      ...['train', '--model', path.join(dir, 'model'), '--data.train', path.join(dir, 'train.jsonl'), '--json'],
      ...['--data.sequence-length', '32', '--prune.layers', '1,3', '--prune.ratio', '0.5', '--device', 'cuda'],
      ...['--align.data', path.join(dir, 'corpus.txt'), '--align.steps', '8', '--align.batch-size', '4'],
      ...['--train.max-steps', '20', '--train.epochs', '4', '--train.batch-size', '8', '--data.eval-split', '0.2'],
    ]
    const env = { RANK: '0', WORLD_SIZE: '1', LORAM_NCCL: library }
    const without = await start([...args, '--output', path.join(dir, 'without')]).finished
    const within = await start([...args, '--output', path.join(dir, 'within')], { env }).finished
    expect(within.exitCode, within.stderr).toBe(0)
    const [expected, found] = [lossesOf(without), lossesOf(within)]
    expect(found).toHaveLength(expected.length)
    for (const [i, loss] of found.entries()) expect(loss / expected[i]! - 1).toBeCloseTo(0, 5)
  })

  test('a library that is not there is an error that says where to get it', () => {
    vi.stubEnv('LORAM_NCCL', path.join(dir, 'libnccl.so.2'))
    const details = { file: path.join(dir, 'libnccl.so.2'), remedy: expect.stringContaining('nvidia-nccl-cu13') }
    expectError(() => nccl.version(device), 'E_NCCL', details)
  })
}

const lossesOf = ({ stdout }: Outcome): number[] =>
  stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
    .flatMap(({ type, loss }) => (type === 'step' || type === 'evaluation' ? [loss] : []))
