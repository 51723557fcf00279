import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: '100%', // the addon's threads belong to a process
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // .ci/run reads the totals from here
    reporters: process.env.CI ? ['default', ['json', { outputFile: 'build/test-results.json' }]] : ['default'],
  },
})
