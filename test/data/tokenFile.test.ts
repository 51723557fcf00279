import { openSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Example } from '../../src/data/encode.ts'
import { TokenFile, TokenFileWriter } from '../../src/data/tokenFile.ts'
import { temporaryDir } from '../tokenizer/tokenizers.ts'

const example = fc
  .array(fc.tuple(fc.integer({ min: 0, max: 2 ** 31 - 1 }), fc.boolean()), { maxLength: 20 })
  .map((tokens): Example => {
    const ids = Int32Array.from(tokens, ([id]) => id)
    return { ids, targets: ids.map((_, i) => (tokens[i + 1]?.[1] ? ids[i + 1]! : -100)) }
  })

function write(file: string, examples: readonly (readonly [Example, boolean])[]): TokenFile<string> {
  const writer = new TokenFileWriter(openSync(file, 'wx+'), file)
  for (const [one, isHeld] of examples) writer.add(one, isHeld)
  return writer.end('statistics')
}

test('gives back what was written, as it is written and when it is opened', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(example, fc.boolean()), { maxLength: 30 }), (examples) => {
      const file = path.join(temporaryDir(), 'a.tokens')
      const written = write(file, examples)
      const opened = TokenFile.open<string>(file)!
      for (const read of [written, opened]) {
        expect([...read.examples]).toEqual(examples.filter(([, isHeld]) => !isHeld).map(([one]) => one))
        expect([...read.held]).toEqual(examples.filter(([, isHeld]) => isHeld).map(([one]) => one))
        expect(Array.from([...read.held], (_, i) => read.held.tokens(i))).toEqual(
          [...read.held].map(({ ids }) => ids.length),
        )
        expect(read.statistics).toBe('statistics')
        expect(read.digest).toBe(written.digest)
      }
      written.close()
      opened.close()
    }),
    { numRuns: 30 },
  )
})

const bytes = ({ buffer }: Int32Array) => new Uint8Array(buffer)

test('examples larger than the buffer', () => {
  const ids = Int32Array.from({ length: 70_000 }, (_, i) => i)
  const targets = ids.map((id) => (id < 69_999 ? id + 1 : -100))
  const file = write(path.join(temporaryDir(), 'a.tokens'), [
    [{ ids, targets }, false],
    [{ ids, targets }, false],
  ])
  const last = file.examples.at(1)
  expect(Buffer.compare(bytes(last.ids), bytes(ids))).toBe(0)
  expect(Buffer.compare(bytes(last.targets), bytes(targets))).toBe(0)
  file.close()
})

describe('damage', () => {
  const file = path.join(temporaryDir(), 'whole.tokens')
  const one = { ids: Int32Array.of(1, 2, 3), targets: Int32Array.of(2, -100, -100) }
  write(file, [[one, false]]).close()
  const whole = readFileSync(file)
  const damaged = path.join(temporaryDir(), 'damaged.tokens')

  test.each(Array.from(whole.keys(), (length) => [length]))('cut to %d bytes', (length) => {
    writeFileSync(damaged, whole.subarray(0, length))
    expect(TokenFile.open(damaged)).toBeUndefined()
  })

  test('a bit flipped in any byte', () => {
    for (const at of whole.keys()) {
      const bytes = Buffer.from(whole)
      bytes[at]! ^= 1 << (at % 8)
      writeFileSync(damaged, bytes)
      expect(TokenFile.open(damaged)).toBeUndefined()
    }
  })
})
