import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

test('every op gives the same bits on 1, 2 and 5 threads', () => {
  const script = fileURLToPath(new URL('threadsDigest.mjs', import.meta.url))
  const digests = ['1', '2', '5'].map((threads) =>
    execFileSync(process.execPath, [script], { env: { ...process.env, LORAM_THREADS: threads }, encoding: 'utf8' }),
  )
  expect(digests[0]).toMatch(/^[0-9a-f]{64}$/)
  expect(new Set(digests).size).toBe(1)
})
