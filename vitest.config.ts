import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { defineConfig } from 'vitest/config'

// encoded by the sources of now, not of before
const cache = mkdtempSync(path.join(os.tmpdir(), 'loram-cache-'))
process.on('exit', () => rmSync(cache, { recursive: true, force: true }))

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: '100%', // the addon's threads belong to a process
    env: { XDG_CACHE_HOME: cache },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // .ci/run reads the totals from here
    reporters: process.env.CI ? ['default', ['json', { outputFile: 'build/test-results.json' }]] : ['default'],
  },
})
