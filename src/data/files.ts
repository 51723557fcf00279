import { existsSync, statSync } from 'node:fs'
import path from 'node:path'
import { globSync, isDynamicPattern } from 'tinyglobby'
import { DataError, messageOf } from '../errors.ts'

const inFolder = '*.{jsonl,ndjson,json,parquet,txt,md}{,.gz}'

/** The files a source names: a file, a folder (its data files, sorted), a pattern such as `data/**\/*.jsonl`, or a list of these. */
export function dataFiles(source: string | readonly string[]): string[] {
  return [source].flat().flatMap((name) => {
    const files = filesOf(name)
    if (files.length > 0) return files
    throw new DataError('E_DATA', `${name} names no data file`, {
      file: name,
      expected: 'at least one .jsonl, .ndjson, .json, .parquet, .txt or .md file, plain or .gz',
      remedy: 'correct the path',
    })
  })
}

function filesOf(name: string): string[] {
  try {
    // a file may have a name that looks like a pattern
    if (!existsSync(name) && isDynamicPattern(name)) return matches(name, '.')
    return statSync(name).isDirectory() ? matches(inFolder, name) : [name]
  } catch (cause) {
    throw new DataError('E_DATA', `${name} cannot be read`, {
      file: name,
      found: messageOf(cause),
      remedy: 'give a file, a folder, or a pattern such as data/*.jsonl',
      cause,
    })
  }
}

function matches(pattern: string, folder: string): string[] {
  const found = globSync(pattern, { cwd: folder, expandDirectories: false })
  return found.map((file) => path.join(folder, file)).sort()
}
