import { execFileSync, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { crc32c, TfEventsWriter } from '../../src/formats/tfEvents.ts'
import { scratchFolder } from './scratch.ts'

const folder = scratchFolder()
afterEach(() => {
  vi.useRealTimers()
})

// RFC 3720, B.4
test.each([
  [Buffer.alloc(32), 0x8a9136aa],
  [Buffer.alloc(32, 0xff), 0x62a8ab43],
  [Buffer.from(Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e],
])('CRC-32C', (bytes, crc) => {
  expect(crc32c(bytes)).toBe(crc)
})

test('writes the bytes that TensorBoard 2.20 writes', () => {
  vi.useFakeTimers({ now: 1_700_000_000_500 })
  const dir = path.join(folder, 'golden')
  const writer = new TfEventsWriter(dir, 300)
  writer.scalars(300, { loss: 2.5, 'evaluation/loss': 0.1 })
  writer.close()
  const [name] = readdirSync(dir)
  expect(name).toMatch(/^events\.out\.tfevents\.1700000000\./)
  expect(readFileSync(path.join(dir, name!)).toString('hex')).toBe(
    '1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b3531' +
      '10100000000000000095fbfe180900002040fc54d94110ac023a020801b94512a3' +
      '33000000000000000ca720560900002040fc54d94110ac022a250a0b0a046c6f73731500002040' +
      '0a160a0f6576616c756174696f6e2f6c6f737315cdcccc3da16aa47f',
  )
})

const python = process.env.LORAM_PEER_PYTHON
const hasTensorBoard = python !== undefined && spawnSync(python, ['-c', 'import tensorboard']).status === 0

describe.skipIf(!hasTensorBoard)('TensorBoard (needs LORAM_PEER_PYTHON with tensorboard)', () => {
  const script = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))`

  test('reads the scalars, and those of a resumed run once', () => {
    const dir = path.join(folder, 'resumed')
    vi.useFakeTimers({ now: 1_700_000_000_000, toFake: ['Date'] })
    const write = (from: number, to: number, value: number) => {
      const writer = new TfEventsWriter(dir, from)
      for (let step = from; step <= to; step++) writer.scalars(step, { loss: value + step / 4 })
      writer.close()
      vi.setSystemTime(Date.now() + 10_000)
    }
    write(1, 5, 0)
    write(4, 6, 10)
    const read = JSON.parse(
      execFileSync(python!, ['-c', script, dir], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
    )
    expect(read).toEqual({
      loss: [
        [1, 0.25],
        [2, 0.5],
        [3, 0.75],
        [4, 11],
        [5, 11.25],
        [6, 11.5],
      ],
    })
  })
})
