import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const native = fileURLToPath(new URL('../../native', import.meta.url))

/** Every kernel that is ever queued, by its head, with the text up to the next one. */
const kernels = readdirSync(native, { recursive: true, encoding: 'utf8' })
  .filter((file) => /\.cuh?$/.test(file))
  .flatMap((file) => readFileSync(path.join(native, file), 'utf8').split('__global__').slice(1))
  .map((text) => ({ head: text.slice(0, text.indexOf('{')).trim(), body: text.slice(text.indexOf('{')) }))
  .filter(({ head }) => head !== 'void probe()')

// One that does not would run beside the kernel before it, and be wrong once in a while: native/cuda/launch.cuh.
test('every kernel waits for those before it', () => {
  expect(kernels.length).toBeGreaterThan(30)
  const hasty = kernels.filter(({ body }) => !body.includes('awaitPrevious();'))
  expect(hasty.map(({ head }) => head)).toEqual([])
})
