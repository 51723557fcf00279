import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'

export function readLines(file) {
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n')
  return lines.map((line) => JSON.parse(line))
}

export function writeLines(file, records) {
  mkdirSync(path.dirname(file), { recursive: true })
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
}
