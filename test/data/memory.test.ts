import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, test } from 'vitest'
import { loadExamples } from '../../src/data/index.ts'
import { byteLevelTokenizer, temporaryDir } from '../tokenizer/tokenizers.ts'

// A process of its own: what other tests leave behind is freed at any later time.

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

/** Bytes that are in use. A collection ends what the one before it freed beside the program. */
function held() {
  collectGarbage()
  collectGarbage()
  return process.memoryUsage()
}

test('what is loaded takes 12 bytes of memory an example, however long', async () => {
  const tokenizer = byteLevelTokenizer()
  const load = (examples: number) => {
    const file = path.join(temporaryDir(), 'data.jsonl')
    writeFileSync(file, `${JSON.stringify({ text: 'one '.repeat(50) })}\n`.repeat(examples))
    return loadExamples(file, tokenizer, { sequenceLength: 4096 })
  }
  await load(1000) // what is made once: the tokenizer's tables, compiled code
  const before = held()
  const { examples } = await load(6000)
  const after = held()
  let tokens = 0
  for (const { ids } of examples) tokens += ids.length

  expect(after.arrayBuffers - before.arrayBuffers).toBeLessThanOrEqual(12 * 6000)
  // an array of numbers would take 8 bytes a token; other things on the heap come and go
  expect(after.heapUsed - before.heapUsed).toBeLessThan((8 * tokens) / 2)
})
