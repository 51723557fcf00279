import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { exitCodeOf } from '../../src/cli/exitCode.ts'
import * as errors from '../../src/errors.ts'
import { root } from './blocks.ts'

const sources = readdirSync(path.join(root, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => readFileSync(path.join(root, 'src', name), 'utf8'))

const thrown = new Set(
  sources.flatMap((text) => Array.from(text.matchAll(/(?:Error|super)\(\s*'(E_[A-Z_]+)'/g), ([, code]) => code!)),
)

const rows = readFileSync(path.join(root, 'docs/errors.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| `E_'))
  .map((line) => {
    const [code, name, , , exitCode] = line.slice(2, -2).split(' | ')
    return { code: code!.slice(1, -1), name: name!.slice(1, -1) as keyof typeof errors, exitCode: Number(exitCode) }
  })

test('docs/errors.md lists every code that is thrown, and no other', () => {
  expect(rows.map(({ code }) => code)).toEqual([...thrown].sort())
})

test.each(rows)('$code is thrown as $name and ends the command with $exitCode', ({ code, name, exitCode }) => {
  // biome-ignore lint/performance/noDynamicNamespaceImportAccess: the page names the classes
  const Class = errors[name] as new (...args: string[]) => errors.LoramError
  const error = name === 'AbortError' ? new Class('stopped') : new Class(code, 'wrong')
  expect(error.code).toBe(code)
  expect(exitCodeOf(error)).toBe(exitCode)
  const thrownAs = new RegExp(`new ${name}\\(\\s*'${code}'`)
  if (name !== 'AbortError') expect(sources.some((text) => thrownAs.test(text))).toBe(true)
})
