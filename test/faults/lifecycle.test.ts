import { execFile } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, expect, test } from 'vitest'
import { writeRecords, writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'

const root = scratchFolder()
const script = fileURLToPath(new URL('lifecycle.mjs', import.meta.url))

beforeAll(() => {
  writeTinyModel(path.join(root, 'model'))
  writeRecords(path.join(root, 'train.jsonl'), 20)
})

interface Outcome {
  code: number | string | null
  signal: NodeJS.Signals | null
  stdout: string
}

/** Runs one scenario of lifecycle.mjs in a process of its own. */
const run = (scenario: string): Promise<Outcome> =>
  new Promise((resolve) => {
    execFile(process.execPath, [script, scenario, root], (error, stdout) => {
      resolve({ code: error ? (error.code ?? null) : 0, signal: error?.signal ?? null, stdout: stdout.trim() })
    })
  })

test.each([
  ['two runs in two threads of one process', 'two', 'finished 20 and 20 steps'],
  ['the process exits while a model trains', 'exit', 'exiting'],
  ['the process ends by an error while a model trains', 'throw', ''],
  ['a run is aborted, and the next one of the process works', 'again', 'aborted, then finished 20 steps'],
  ['twenty runs one after another leave memory as it was', 'many', 'memory is steady'],
])('%s', async (_name, scenario, printed) => {
  const { code, signal, stdout } = await run(scenario)
  expect(signal).toBe(null)
  expect(code).toBe(scenario === 'throw' ? 1 : 0)
  expect(stdout).toContain(printed)
})
