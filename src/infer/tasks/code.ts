import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { stringOf } from '../../data/conversations.ts'
import { ConfigError } from '../../errors.ts'
import { bosSegments, type Segment } from '../../tokenizer/segments.ts'
import { stopIfAborted } from '../../worker/protocol.ts'
import type { LoadedModel } from '../loadedModel.ts'
import { greedyTexts } from './greedy.ts'
import type { Answer, Ask, TaskOptions, TaskSizes } from './task.ts'

/** Where HumanEval's reference implementation ends a generated function. */
const stop = ['\nclass', '\ndef', '\n#', '\nif', '\nprint']

/** What a generated program gets: seconds, bytes of memory, bytes of a file. */
const limits = { seconds: 10, memory: 2 ** 30, file: 2 ** 20 }

/** Completes a Python function and runs its tests: records of HumanEval's form, `{ prompt, test, entry_point }`. */
export async function code(loaded: LoadedModel, task: TaskOptions, sizes: TaskSizes): Promise<Ask> {
  return async (records, signal) => {
    const texts = records.map((record) => stringOf(record, 'prompt'))
    const data = (text: string): Segment => ({ text, source: 'data', learnt: false })
    const prompts = records.map((record, i) => {
      return { record, segments: [...bosSegments(loaded.tokenizer), data(texts[i]!)] }
    })
    const answers: Answer[] = []
    for (const [i, generated] of greedyTexts(loaded, prompts, { stop, ...task }, sizes, signal).entries()) {
      stopIfAborted(signal, 'evaluate')
      const tests = `${stringOf(records[i]!, 'test')}\ncheck(${stringOf(records[i]!, 'entry_point')})\n`
      answers.push({ right: await succeeds(`${texts[i]}${generated}\n${tests}`), generated })
    }
    return answers
  }
}

const limited = `import resource
resource.setrlimit(resource.RLIMIT_CPU, (${limits.seconds}, ${limits.seconds}))
resource.setrlimit(resource.RLIMIT_AS, (${limits.memory}, ${limits.memory}))
resource.setrlimit(resource.RLIMIT_FSIZE, (${limits.file}, ${limits.file}))
del resource
`

/**
 * Whether a Python program ends without an error: in a folder of its own, without this process's environment, and within
 * {@link limits}. That contains accidents; it is no sandbox.
 */
async function succeeds(program: string): Promise<boolean> {
  const folder = mkdtempSync(path.join(tmpdir(), 'loram-code-'))
  try {
    writeFileSync(path.join(folder, 'program.py'), limited + program)
    return await new Promise<boolean>((resolve, reject) => {
      const child = spawn('python3', ['-I', 'program.py'], {
        cwd: folder,
        env: { PATH: process.env.PATH },
        stdio: 'ignore',
        timeout: 1000 * limits.seconds,
        killSignal: 'SIGKILL',
      })
      child.on('error', (cause) => reject(noPython(cause)))
      child.on('exit', (exitCode) => resolve(exitCode === 0))
    })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const noPython = (cause: Error) =>
  new ConfigError('E_CONFIG', 'generated code cannot be run', {
    field: 'task.kind',
    expected: 'python3 in PATH',
    found: cause.message,
    remedy: 'install Python 3',
    cause,
  })
