import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { ConfigError, RunError } from '../errors.ts'
import { writeFileAtomic } from '../formats/atomic.ts'
import { writing } from '../formats/disk.ts'
import { formatJson, readJsonObject } from '../formats/json.ts'
import type { ResolvedOptions } from '../options/index.ts'
import type { RunEvent } from './events.ts'

/** The folder of a run: the adapter, and below `run/` everything on the way to it. */
export interface RunFolder {
  /** `run/<name>` */
  at(name: string): string
  /**
   * Keeps `facts` that decide what a run computes as `run/<name>.json`, or compares them with those of the run it continues.
   * @throws {RunError} `E_RESUME`: they differ; names each difference
   */
  remember(name: string, facts: object): void
  /** Appends an event, and the time, to `run/events.jsonl`. */
  log(event: RunEvent): void
  close(): void
}

/**
 * Options that may change between a run and its continuation: they decide where and how far, not what is computed. What
 * `quantizeTables` comes to is remembered apart from it.
 */
const free = /^(resume|forceResume|output|device|memory|quantizeTables|train\.(recompute|offload)|data\.cache|log\..*)$/

/**
 * Opens the folder for one run, locks it, and clears away what a killed process left half written.
 * @throws {RunError} `E_LOCKED`: another process works in it; `E_RESUME`: it holds a run with other options
 * @throws {ConfigError} `E_CONFIG`: it holds a run and `resume` is not set
 */
export function openRunFolder(options: ResolvedOptions, notice: (message: string) => void): RunFolder {
  const { output, resume, forceResume } = options
  const root = path.join(output, 'run')
  const at = (name: string) => path.join(root, name)
  writing(root, () => mkdirSync(root, { recursive: true }))
  const unlock = lock(at('lock'), notice)
  const remember = (name: string, facts: object) => {
    const file = at(`${name}.json`)
    if (existsSync(file) && !forceResume) compare(file, facts)
    else writeFileAtomic(file, formatJson(facts))
  }
  try {
    if (existsSync(at('options.json')) && !resume) throw occupied(output)
    remember('options', options)
    for (const folder of [root, at('checkpoints'), at('alignCheckpoints')]) clearUnfinished(folder)
    const events = writing(root, () => openSync(at('events.jsonl'), resume ? 'a' : 'w'))
    return {
      at,
      remember,
      log: (event) =>
        writing(root, () => writeSync(events, `${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`)),
      close: () => {
        closeSync(events)
        unlock()
      },
    }
  } catch (error) {
    unlock()
    throw error
  }
}

/** The folder of a run that another process has opened, and alone writes. */
export const followRunFolder = (output: string): RunFolder => ({
  at: (name) => path.join(output, 'run', name),
  remember() {},
  log() {},
  close() {},
})

const occupied = (output: string) =>
  new ConfigError('E_CONFIG', `${output} holds a run already`, {
    field: 'output',
    remedy: 'go on with it by resume, or choose another folder',
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
    remedy: 'resume with what it was started with, start anew in another folder, or set forceResume',
  })
}

/** Removes the temporary files and folders that atomic writes of a killed process left. */
function clearUnfinished(folder: string): void {
  if (!existsSync(folder)) return
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
