import { readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { DataError, messageOf } from '../errors.ts'

const dataExtension = /\.(jsonl|ndjson|json|txt|md)(\.gz)?$/

/**
 * The files a source names: a file, a directory (its data files, sorted), a pattern with `*` in its last part, or a list
 * of these.
 */
export function dataFiles(source: string | readonly string[]): string[] {
  return [source].flat().flatMap((name) => {
    const files = filesOf(name)
    if (files.length > 0) return files
    throw new DataError('E_DATA', `${name} names no data file`, {
      file: name,
      expected: 'at least one .jsonl, .ndjson, .json, .txt or .md file, plain or .gz',
      remedy: 'correct the path; Parquet files must be converted to JSONL first',
    })
  })
}

function filesOf(name: string): string[] {
  const last = path.basename(name)
  try {
    if (last.includes('*')) {
      const pattern = new RegExp(`^${last.split('*').map(escapeRegExp).join('.*')}$`, 's')
      return filesIn(path.dirname(name), (entry) => pattern.test(entry))
    }
    return statSync(name).isDirectory() ? filesIn(name, (entry) => dataExtension.test(entry)) : [name]
  } catch (cause) {
    throw new DataError('E_DATA', `${name} cannot be read`, {
      file: name,
      found: messageOf(cause),
      remedy: 'give a file, a directory, or a pattern with * in its last part',
      cause,
    })
  }
}

function filesIn(dir: string, wanted: (name: string) => boolean): string[] {
  const names = readdirSync(dir, { withFileTypes: true }).filter((entry) => !entry.isDirectory() && wanted(entry.name))
  return names.map(({ name }) => path.join(dir, name)).sort()
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.+?()[\]{}|]/g, '\\$&')
}
