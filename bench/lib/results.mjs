import { appendFileSync, mkdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

/** Lines of a results file. The newest of a case is its state; nothing is edited afterwards. */
export function readResults(file) {
  const lines = readFileSync(file, 'utf8').split('\n')
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line))
}

export function appendResult(file, line) {
  mkdirSync(path.dirname(file), { recursive: true })
  appendFileSync(file, `${JSON.stringify(line)}\n`)
}

/** What is measured: the case, and of a kernel its shape. */
export function labelOf({ case: name, m, n, k, orientation, sequences }) {
  const size = [m, n, k].filter((value) => value !== undefined).join('x')
  return [name, size, orientation, sequences && `in ${sequences}`].filter(Boolean).join(' ')
}

/** Where: results of different machines are not compared. */
const placeOf = ({ gpu, cpu, threads }) => gpu ?? `${cpu}, ${threads} threads`

/** The newest line of every case on every machine. */
export function newest(lines) {
  return new Map(lines.map((line) => [`${labelOf(line)} on ${placeOf(line)}`, line]))
}
