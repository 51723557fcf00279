import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { type Block, blocks, commandsOf, root } from './blocks.ts'

/** Commands that are not run here, and why. The npm scripts and files they name must exist. */
const notRun: readonly (readonly [RegExp, string])[] = [
  [/^npm ci$/, 'the tests run in its result'],
  [/^npm test$/, 'is running'],
  [/^\.ci\/run$/, 'runs these tests'],
  [/^npm run (install:nvcc|build:cuda)$/, 'downloads a compiler, and takes minutes'],
  [/^npm run demo$/, 'test/demo runs it, shortened'],
  [/^npm run bench -- (?!.*(--device cpu|--list|--help))/, 'takes minutes, a GPU or Python'],
  [/^npm run bench:chart$/, 'test/bench draws one'],
]

/** Pages that name models which a reader would have: their commands must be understood, and fail for lack of files alone. */
const illustrative = ['docs/cli.md', 'docs/configuration.md', 'docs/smollm2.md']
const missingInput = 3

const shell = blocks.filter(({ language }) => language === 'sh')

describe.each([...new Set(shell.map(({ file }) => file))])('%s', (file) => {
  const scratch = mkdtempSync(path.join(os.tmpdir(), 'loram-docs-'))
  symlinkSync(path.join(root, 'demo'), path.join(scratch, 'demo'))
  afterAll(() => rmSync(scratch, { recursive: true }))
  const commands = shell
    .filter((block) => block.file === file)
    .flatMap((block: Block) => commandsOf(block).map((command) => ({ command, line: block.line })))

  test.each(commands)('$line: $command', ({ command }) => {
    if (notRun.some(([pattern]) => pattern.test(command))) {
      expect(whatIsMissing(command)).toEqual([])
      return
    }
    const run = command
      .replace(/^(npx )?loram /, `"${process.execPath}" "${path.join(root, 'dist/cli/main.js')}" `)
      .replace(/^npm run bench -- /, `"${process.execPath}" "${path.join(root, 'bench/run.mjs')}" `)
    expect(run, 'only loram and its benchmarks are run; list other commands above').not.toBe(command)
    const { status, stderr } = spawnSync('bash', ['-c', run], { cwd: scratch, encoding: 'utf8' })
    const allowed = illustrative.includes(file) ? [0, missingInput] : [0]
    expect(allowed, stderr).toContain(status)
  })
})

test('no reason is given for a command that no page has', () => {
  const all = shell.flatMap(commandsOf)
  expect(notRun.filter(([pattern]) => !all.some((command) => pattern.test(command)))).toEqual([])
})

/** npm scripts and files that `command` names and the repository lacks. */
function whatIsMissing(command: string): string[] {
  const { scripts } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
  const [script] = /(?<=^npm run )\S+/.exec(command) ?? []
  const [file] = /(?<=^node )\S+|^\.ci\/run/.exec(command) ?? []
  return [
    script !== undefined && !scripts[script] ? script : [],
    file && !existsSync(path.join(root, file)) ? file : [],
  ].flat()
}
