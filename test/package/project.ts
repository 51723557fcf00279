import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { scratchFolder } from '../formats/scratch.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const scratch = scratchFolder()

/** An empty project with the packed tarballs, installed by `npm ci` as CI does, without install scripts. */
export interface Project {
  folder: string
  /** What a script in it prints. */
  node(name: string, script: string): string
  run(command: string, ...args: string[]): string
}

/** @param others what else the project depends on, as npm's command line takes it */
export function installPacked(...others: string[]): Project {
  const folder = path.join(scratch, 'a project, with spaces, ümlauts and 日本語')
  const tarballs = path.join(folder, 'tarballs')
  mkdirSync(folder)
  const run = (command: string, ...args: string[]) =>
    execFileSync(command, args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  run(process.execPath, path.join(root, 'scripts/pack.mjs'), tarballs)
  const packed = readdirSync(tarballs).filter((name) => name.endsWith('.tgz'))
  writeFileSync(path.join(folder, 'package.json'), '{ "name": "project", "private": true }')
  const offline = ['--ignore-scripts', '--prefer-offline']
  run('npm', 'install', '--package-lock-only', ...offline, ...packed.map((name) => `./tarballs/${name}`), ...others)
  run('npm', 'ci', ...offline)
  return {
    folder,
    run,
    node(name, script) {
      writeFileSync(path.join(folder, name), script)
      return run(process.execPath, '--no-warnings', name).trim()
    },
  }
}

export const fromRoot = (file: string): string => path.join(root, file)
