import type { Example, Examples } from '../../src/data/encode.ts'

/** Examples without a file. */
export const inMemory = (examples: Example[]): Examples => ({
  length: examples.length,
  at: (index) => examples[index]!,
  tokens: (index) => examples[index]!.ids.length,
  [Symbol.iterator]: () => examples[Symbol.iterator](),
})
