import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, symlinkSync } from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { scratchFolder } from '../formats/scratch.ts'
import { freePort } from '../freePort.ts'
import { type Block, blocks, commandsOf, root } from './blocks.ts'

/** Commands that are not run here, and why. The npm scripts and files they name must exist. */
const notRun: readonly (readonly [RegExp, string])[] = [
  [/^npm ci$/, 'the tests run in its result'],
  [/^npm test( |$)/, 'is running'],
  [/^\.ci\/run$/, 'runs these tests'],
  [/^npm run (install:nvcc|build:cuda)$/, 'downloads a compiler, and takes minutes'],
  [
    /^npm install --save-dev |^npx loram build/,
    'compile for minutes; test/package/build.test.ts does, in a project of its own',
  ],
  [/npx vitest run /, 'run tests'],
  [/^npm run demo$/, 'test/demo runs it, shortened'],
  [/^lm_eval /, 'needs Python; test/interop runs it'],
  [/^npm run bench -- (?!.*(--device cpu|--list|--help))/, 'takes minutes, a GPU or Python'],
  [/^npm run bench:chart$/, 'test/bench draws one'],
  [/^npm run bench:serve /, 'takes minutes'],
  [/^npm run bench:quality/, 'takes minutes, a model and data; test/bench runs it, shortened'],
  [/^(torchrun|srun|mpirun) /, 'start several processes, with a GPU each; test/distributed does without'],
  [/^RANK=0 /, 'needs a GPU and NCCL'],
]

/** Pages that name models which a reader would have: their commands must be understood, and fail for lack of files alone. */
const illustrative = ['docs/cli.md', 'docs/configuration.md', 'docs/smollm2.md']
const missingInput = 3

const port = await freePort()

const shell = blocks.filter(({ language }) => language === 'sh')

describe.each([...new Set(shell.map(({ file }) => file))])('%s', (file) => {
  const scratch = scratchFolder()
  symlinkSync(path.join(root, 'demo'), path.join(scratch, 'demo'))
  let server: ChildProcess | undefined
  afterAll(() => void server?.kill())
  const commands = shell
    .filter((block) => block.file === file)
    .flatMap((block: Block) => commandsOf(block).map((command) => ({ command, line: block.line })))

  test.each(commands)('$line: $command', async ({ command }) => {
    if (notRun.some(([pattern]) => pattern.test(command))) {
      expect(whatIsMissing(command)).toEqual([])
      return
    }
    const isRun = /\bloram |^curl |^npm run bench -- /.test(command)
    expect(isRun, 'only loram, its benchmarks and requests to its server are run; list others above').toBe(true)
    const loram = command
      .replace(/(npx )?\bloram /, `"${process.execPath}" "${path.join(root, 'dist/cli/main.js')}" `)
      .replace(/^npm run bench -- /, `"${process.execPath}" "${path.join(root, 'bench/run.mjs')}" `)
    if (/^npx loram serve /.test(command)) {
      server = await startServer(loram, scratch)
      return
    }
    const { status, stderr } = spawnSync('bash', ['-c', loram.replace(':8000', `:${port}`)], {
      cwd: scratch,
      encoding: 'utf8',
    })
    const allowed = illustrative.includes(file) ? [0, missingInput] : [0]
    expect(allowed, stderr).toContain(status)
  })
})

/** Starts a server that runs until the page's end, on a port of its own. */
function startServer(command: string, cwd: string): Promise<ChildProcess> {
  const child = spawn('bash', ['-c', `exec ${command} --port ${port}`], { cwd })
  return new Promise((resolve, reject) => {
    child.stderr.on('data', (text) => String(text).includes(' serves ') && resolve(child))
    child.on('exit', (code) => reject(new Error(`the server ended with ${code}`)))
  })
}

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
