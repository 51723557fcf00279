import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { defineConfig } from 'vitest/config'

// Holds what tests write, and what they encode by the sources of now. Their own processes are ended before they could remove it
const scratch = mkdtempSync(path.join(os.tmpdir(), 'loram-test-'))
chmodSync(scratch, 0o711) // one test works in it as another user
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

// `--project gpu`: the tests that run on every device, on the GPU alone. Without it they are among all others.
const onGpu = process.argv.some((argument) => /^(--project=)?gpu$/.test(argument))
const testsOfDevices = () =>
  readdirSync('test', { recursive: true, encoding: 'utf8' })
    .map((file) => path.join('test', file))
    .filter((file) => file.endsWith('.test.ts') && /onEveryDevice\(|cudaStatus\(/.test(readFileSync(file, 'utf8')))

export default defineConfig({
  test: {
    name: onGpu ? 'gpu' : 'all',
    include: onGpu ? testsOfDevices() : ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: Math.ceil(1.5 * os.availableParallelism()), // some tests wait for other processes
    env: { TMPDIR: scratch, XDG_CACHE_HOME: path.join(scratch, 'cache'), ...(onGpu && { LORAM_TEST_DEVICE: 'cuda' }) },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // .ci/run reads the totals from here
    reporters: process.env.CI ? ['default', ['json', { outputFile: 'build/test-results.json' }]] : ['default'],
  },
})
