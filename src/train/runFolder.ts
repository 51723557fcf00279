import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { ConfigError, RunError } from '../errors.ts'
import { requireNoModel, writeFileAtomic } from '../formats/atomic.ts'
import { writing } from '../formats/disk.ts'
import { formatJson, readJsonObject } from '../formats/json.ts'
import type { ResolvedOptions } from '../options/index.ts'
import { checkpointsIn } from './checkpoint.ts'
import type { RunEvent } from './events.ts'

/** A folder in which work stops and goes on. */
export interface WorkFolder {
  at(name: string): string
  /**
   * Keeps `facts` that decide what is computed as `<name>.json`, or compares them with those of the work that goes on.
   * @throws {RunError} `E_RESUME`: they differ; names each difference
   */
  remember(name: string, facts: object): void
  close(): void
}

/** The folder `run/` of a run's output: everything on the way to the adapter. */
export interface RunFolder extends WorkFolder {
  /** Appends an event, and the time, to `events.jsonl`. */
  log(event: RunEvent): void
}

/**
 * Options that may change between work and its continuation: they decide where and how far, not what is computed. What
 * `quantizeTables` comes to is remembered apart from it.
 */
const free =
  /^(resume|forceResume|output|device|memory|quantizeTables|((train|align)\.)?(recompute|offload)|(data\.)?cache|log\..*)$/

/** What work in a folder needs to know of its options. */
interface Resumable {
  output: string
  resume: boolean
  forceResume: boolean
}

/**
 * Opens the folder `root` for work with `options`, locks it, and clears away what a killed process left half written.
 * @param made what is there to go on from; what was remembered of work that came to nothing is forgotten, also where
 *   `forceResume` replaced what was remembered before
 * @throws {RunError} `E_LOCKED`: another process works in it; `E_RESUME`: it holds work with other options
 * @throws {ConfigError} `E_CONFIG`: something is there, and `resume` is not set
 */
export function openWorkFolder(
  root: string,
  options: Resumable,
  made: (at: WorkFolder['at']) => string[],
  notice: (message: string) => void,
): WorkFolder {
  const at = (name: string) => path.join(root, name)
  writing(root, () => mkdirSync(root, { recursive: true }))
  const unlock = lock(at('lock'), notice)
  try {
    const before = made(at)
    const begun = before.length > 0
    if (begun && !options.resume) throw occupied(options.output)
    const replaced = new Map<string, Buffer>()
    const remember = (name: string, facts: object) => {
      const file = at(`${name}.json`)
      const isKnown = begun && existsSync(file)
      if (isKnown && !options.forceResume) return compare(file, facts)
      if (isKnown) replaced.set(file, readFileSync(file))
      writeFileAtomic(file, formatJson(facts))
    }
    const close = () => {
      const cameToNothing = replaced.size > 0 && before.join() === made(at).join()
      if (cameToNothing) for (const [file, content] of replaced) writeFileAtomic(file, content)
      unlock()
    }
    remember('options', options)
    clearUnfinished(root)
    for (const entry of readdirSync(root, { withFileTypes: true }))
      if (entry.isDirectory()) clearUnfinished(at(entry.name))
    return { at, remember, close }
  } catch (error) {
    unlock()
    throw error
  }
}

/** What a run makes, and where it keeps checkpoints. */
const results = ['pruned', 'aligned', 'prunedAdapter']
const checkpoints = ['checkpoints', 'alignCheckpoints', 'finishCheckpoints']

/** Opens the folder of a run as {@link openWorkFolder} does. */
export function openRunFolder(options: ResolvedOptions, notice: (message: string) => void): RunFolder {
  const { output, resume } = options
  const root = path.join(output, 'run')
  if (!existsSync(root)) requireNoModel(output)
  const made = (at: WorkFolder['at']) => [
    ...results.map(at).filter(existsSync),
    ...checkpoints.flatMap((name) => checkpointsIn(at(name))),
    ...adapterIn(output),
  ]
  const folder = openWorkFolder(root, options, made, notice)
  try {
    const events = writing(root, () => openSync(folder.at('events.jsonl'), resume ? 'a' : 'w'))
    return {
      ...folder,
      log: (event) =>
        writing(root, () => writeSync(events, `${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`)),
      close: () => {
        closeSync(events)
        folder.close()
      },
    }
  } catch (error) {
    folder.close()
    throw error
  }
}

/** The adapter in a folder, if there is one, with the time it was written. */
function adapterIn(folder: string): string[] {
  const stat = statSync(path.join(folder, 'adapter_model.safetensors'), { throwIfNoEntry: false })
  return stat ? [`adapter of ${stat.mtimeMs}`] : []
}

/** A folder that another process has opened, and alone writes. */
export const followFolder = (root: string): RunFolder => ({
  at: (name) => path.join(root, name),
  remember() {},
  log() {},
  close() {},
})

const occupied = (output: string) =>
  new ConfigError('E_CONFIG', `${output} holds a run already`, {
    field: 'output',
    remedy: 'go on with it by resume, with forceResume as well if options differ, or choose another folder',
  })

function compare(file: string, facts: object): void {
  const before = flatten(readJsonObject(file))
  const now = flatten(JSON.parse(JSON.stringify(facts)))
  const changed = [...new Set([...before.keys(), ...now.keys()])].filter(
    (key) => !free.test(key) && before.get(key) !== now.get(key),
  )
  if (changed.length === 0) return
  const list = (values: Map<string, string>) => changed.map((key) => `${key} ${values.get(key) ?? 'absent'}`).join(', ')
  throw new RunError('E_RESUME', 'the run was started with something else', {
    file,
    expected: list(before),
    found: list(now),
    remedy: 'resume with what it was started with, start anew in another folder, or set forceResume beside resume',
  })
}

/** Removes the temporary files and folders that atomic writes of a killed process left. */
function clearUnfinished(folder: string): void {
  const unfinished = readdirSync(folder).filter((name) => /\.tmp-\d+$/.test(name))
  for (const name of unfinished) rmSync(path.join(folder, name), { recursive: true, force: true })
}

/** `{ a: { b: 1 } }` as `a.b` -> `1`. */
function flatten(value: unknown, prefix = ''): Map<string, string> {
  if (value === null || typeof value !== 'object') return new Map([[prefix, JSON.stringify(value)]])
  return new Map(
    Object.entries(value).flatMap(([key, inner]) => [...flatten(inner, prefix ? `${prefix}.${key}` : key)]),
  )
}

/** Takes the lock file, also from a process that is gone; returns what gives it back. */
function lock(file: string, notice: (message: string) => void): () => void {
  const mine = { pid: process.pid, host: os.hostname() }
  for (;;) {
    try {
      const fd = openSync(file, 'wx')
      writeSync(fd, JSON.stringify(mine))
      closeSync(fd)
      return () => rmSync(file, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
        return writing(file, () => {
          throw error
        })
    }
    const holder = holderOf(file)
    if (holder && (holder.host !== mine.host || isAlive(holder.pid))) {
      throw new RunError('E_LOCKED', 'another process works in this folder', {
        file,
        found: `process ${holder.pid} on ${holder.host}`,
        remedy: 'wait for it, or remove the file if that process is gone',
      })
    }
    notice(`took over the lock of a process that is gone${holder ? ` (${holder.pid})` : ''}`)
    rmSync(file, { force: true })
  }
}

function holderOf(file: string): { pid: number; host: string } | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
