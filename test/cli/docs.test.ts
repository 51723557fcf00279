import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { readConfigFile } from '../../src/cli/configFile.ts'
import { resolveOptions } from '../../src/cli/resolve.ts'
import { trainLoRAMOptions } from '../../src/options/index.ts'

test('the tables in docs are those of the schemas', () => {
  expect(execFileSync(process.execPath, ['scripts/docs-config.mjs', '--check'], { encoding: 'utf8' })).toBe('')
})

const examples = readdirSync('examples').filter((name) => name.endsWith('.yaml'))

test.each(examples)('examples/%s is a valid configuration', (name) => {
  const file = path.join('examples', name)
  expect(resolveOptions(trainLoRAMOptions, {}, readConfigFile(file))).toMatchObject({ output: './adapter' })
  expect(readFileSync(file, 'utf8')).toContain(`loram train ${file}`)
})
