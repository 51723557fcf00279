import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { goldenPath } from '../golden.ts'

export const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Outcome {
  exitCode: number | null
  /** What killed the process, where something did. */
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** A command that runs; `finished` when it ended. */
export interface Running {
  process: ChildProcess
  finished: Promise<Outcome>
  /** What it has written so far. */
  output: { stdout: string; stderr: string }
  /** Resolves once stderr or stdout holds `text`. */
  seen(text: string): Promise<void>
}

/** Starts the built command as users do, without a terminal. */
export function start(
  args: readonly string[],
  { cwd, env = {} }: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Running {
  const child = spawn(process.execPath, [main, ...args], { cwd, env: { ...process.env, LORAM_DEBUG: '', ...env } })
  const output = { stdout: '', stderr: '' }
  const waiting: { text: string; resolve: () => void }[] = []
  const collect = (key: 'stdout' | 'stderr') => (chunk: Buffer) => {
    output[key] += chunk
    for (const { text, resolve } of waiting) if (output[key].includes(text)) resolve()
  }
  child.stdout.on('data', collect('stdout'))
  child.stderr.on('data', collect('stderr'))
  return {
    process: child,
    output,
    finished: new Promise((resolve) => {
      child.on('close', (exitCode, signal) => resolve({ exitCode, signal, ...output }))
    }),
    seen: (text) => new Promise((resolve) => waiting.push({ text, resolve })),
  }
}

export const loram = (...args: string[]): Promise<Outcome> => start(args).finished

/** The object that programs read. */
export const lastLine = (text: string): Record<string, unknown> => JSON.parse(text.trimEnd().split('\n').at(-1)!)

/** The result of a command that must succeed. */
export async function loramJson(...args: string[]): Promise<Record<string, unknown>> {
  const { exitCode, stdout, stderr } = await loram(...args, '--json')
  if (exitCode !== 0) throw new Error(`loram ${args.join(' ')} ended with ${exitCode}: ${stderr}`)
  return lastLine(stdout)
}

const ascii = Array.from({ length: 95 }, (_, i) => (i === 0 ? 'Ġ' : String.fromCharCode(32 + i)))
const special = ['<pad>', '<s>', '</s>']

/** A tokenizer with a token for every printable ASCII character, which fits the golden models' 160 ids. */
const tokenizerJson = {
  added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
  normalizer: null,
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
  post_processor: null,
  decoder: { type: 'ByteLevel' },
  model: {
    type: 'BPE',
    vocab: Object.fromEntries([...special, ...ascii].map((token, id) => [token, id])),
    merges: [],
  },
}

/** A golden model with a tokenizer, as a Hugging Face folder in `dir`. */
export function writeTinyModel(dir: string, golden = ['loram', 'large']): string {
  cpSync(goldenPath(...golden), dir, { recursive: true })
  writeFileSync(path.join(dir, 'tokenizer.json'), JSON.stringify(tokenizerJson))
  const config = { bos_token: '<s>', eos_token: '</s>', pad_token: '<pad>', add_bos_token: true }
  writeFileSync(path.join(dir, 'tokenizer_config.json'), JSON.stringify(config))
  return dir
}

/** Questions with answers that a tiny model can get better at. */
export function writeRecords(file: string, count: number, repeats = 1): string {
  const lines = Array.from({ length: count }, (_, i) =>
    JSON.stringify({ prompt: `${i % 7} and ${i % 5}`, completion: ` make ${(i % 7) + (i % 5)}.`.repeat(repeats) }),
  )
  writeFileSync(file, lines.join('\n'))
  return file
}
