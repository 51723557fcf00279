import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { buildFolder, requireVacant, writeFileAtomic } from '../../src/formats/atomic.ts'
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts'
import { expectError, scratchFolder } from './scratch.ts'

const scratch = scratchFolder()
const dir = path.join(scratch, 'dir')
const file = path.join(dir, 'file')

beforeEach(() => {
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir)
})

test('a file is replaced', () => {
  writeFileAtomic(file, 'old')
  writeFileAtomic(file, new Uint8Array([110, 101, 119]))
  expect(readFileSync(file, 'utf8')).toBe('new')
  expect(readdirSync(dir)).toEqual(['file'])
})

test('a file in a folder that does not exist is refused', () => {
  expectError(() => writeFileAtomic(path.join(dir, 'none', 'file'), ''), 'E_DISK')
})

test('a folder appears whole, with its parents, or not at all', () => {
  const target = path.join(dir, 'parent', 'target')
  const fill = (temporary: string) => {
    expect(readdirSync(path.dirname(target))).not.toContain('target')
    writeFileAtomic(path.join(temporary, 'a'), 'a')
  }
  buildFolder(target, fill)
  expect(readdirSync(target)).toEqual(['a'])
  const failing = (temporary: string) => {
    writeFileAtomic(path.join(temporary, 'a'), 'b')
    throw new Error('stop')
  }
  expect(() => buildFolder(target, failing)).toThrow('stop')
  expect(readFileSync(path.join(target, 'a'), 'utf8')).toBe('a')
  expect(readdirSync(path.dirname(target))).toEqual(['target'])
})

test('a folder is vacant if it is new or empty', () => {
  requireVacant(dir)
  requireVacant(path.join(dir, 'none'))
  writeFileSync(file, '')
  expectError(() => requireVacant(dir), 'E_FILE', { file: dir })
})

/** A disk of 1 MiB, or undefined where this process may not mount one. */
function smallDisk(): string | undefined {
  const mountPoint = mkdtempSync(path.join(scratch, 'disk-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', mountPoint], { stdio: 'ignore' })
    return mountPoint
  } catch {
    return undefined
  }
}

test('a full disk leaves the old file, and no other', ({ skip }) => {
  const disk = smallDisk()
  if (disk === undefined) return skip('mounting a small tmpfs needs root')
  try {
    const target = path.join(disk, 'x.safetensors')
    const write = (bytes: number) =>
      writeSafetensors(target, [{ name: 'x', dtype: 'u8', shape: [bytes] }], () => new Uint8Array(bytes))
    write(600_000)
    expectError(() => write(600_001), 'E_DISK', { found: expect.stringContaining('ENOSPC') })
    expectError(
      () =>
        buildFolder(path.join(disk, 'new'), (temporary) =>
          writeFileAtomic(path.join(temporary, 'a'), Buffer.alloc(2e6)),
        ),
      'E_DISK',
    )
    expect(readdirSync(disk)).toEqual(['x.safetensors'])
    const opened = openSafetensors(target)
    expect(opened.read('x')).toHaveLength(600_000)
    opened.close()
  } finally {
    execFileSync('umount', [disk])
  }
})

describe('kill -9', () => {
  const build = path.join(scratch, 'build')
  const target = path.join(scratch, 'killed.safetensors')

  beforeAll(() => {
    const source = fileURLToPath(new URL('../../src/', import.meta.url))
    const compilerOptions = {
      module: ts.ModuleKind.ESNext,
      target: ts.ScriptTarget.ES2023,
      rewriteRelativeImportExtensions: true,
    }
    for (const name of [
      'errors',
      'tensor/dtype',
      'formats/atomic',
      'formats/disk',
      'formats/json',
      'formats/safetensors',
    ]) {
      const { outputText } = ts.transpileModule(readFileSync(`${source}${name}.ts`, 'utf8'), { compilerOptions })
      const out = path.join(build, `${name}.js`)
      mkdirSync(path.dirname(out), { recursive: true })
      writeFileSync(out, outputText)
    }
    writeFileSync(path.join(build, 'package.json'), '{"type": "module"}')
    writeFileSync(path.join(build, 'main.js'), endlessWriter)
  })

  /** Writes the file again and again, each time all of its 64 pieces with another value. */
  const endlessWriter = `
    import { writeSafetensors } from './formats/safetensors.js'
    const [, , file] = process.argv
    const entries = ['a', 'b'].map((name) => ({ name, dtype: 'u8', shape: [2 ** 21] }))
    for (let value = 0; ; value = (value + 1) % 256) {
      const pieces = Array(32).fill(new Uint8Array(2 ** 16).fill(value))
      writeSafetensors(file, entries, () => pieces)
      if (value === 0) process.stdout.write('.')
    }`

  const firstOutput = (child: ChildProcess) => new Promise((resolve) => child.stdout!.once('data', resolve))
  const exit = (child: ChildProcess) => new Promise((resolve) => child.once('exit', resolve))

  test('at 20 moments always leaves a whole file', async () => {
    for (let round = 0; round < 20; round++) {
      const child = spawn(process.execPath, [path.join(build, 'main.js'), target], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      await firstOutput(child)
      await new Promise((resolve) => setTimeout(resolve, round))
      const exited = exit(child)
      child.kill('SIGKILL')
      await exited
      const opened = openSafetensors(target)
      const [a, b] = [opened.read('a'), opened.read('b')]
      opened.close()
      expect(Buffer.compare(a, b)).toBe(0)
      expect(a.every((value) => value === a[0])).toBe(true)
    }
  })
})
