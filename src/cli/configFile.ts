import { readFileSync } from 'node:fs'
import { type Document, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument } from 'yaml'
import { ConfigError, messageOf } from '../errors.ts'
import { reading } from '../formats/disk.ts'

/** A configuration file's options, and where it has them. */
export interface ConfigFile {
  file: string
  values: Record<string, unknown>
  /** The line of the key at `path`, or of the nearest key around it. */
  lineOf(path: readonly string[]): number | undefined
}

/** Aliases may repeat a configuration's parts, not blow them up. */
const maxAliasCount = 100

/**
 * Reads YAML (1.2, so JSON too).
 * @throws {FileError} `E_FILE`: it cannot be read
 * @throws {ConfigError} `E_CONFIG`: not YAML, a key twice, too many aliases, or no mapping; with the line
 */
export function readConfigFile(file: string): ConfigFile {
  const text = reading(file, () => readFileSync(file, 'utf8'))
  const lines = new LineCounter()
  const refuse = (found: string, offset = 0, cause?: unknown) =>
    new ConfigError('E_CONFIG', `${file} cannot be used`, { file, line: lines.linePos(offset).line, found, cause })

  const document = attempt(() => parseDocument(text, { lineCounter: lines, prettyErrors: false }), refuse)
  const [fault] = [...document.errors, ...document.warnings]
  if (fault) throw refuse(fault.message, fault.pos[0], fault)
  const values: unknown = attempt(() => document.toJS({ maxAliasCount }), refuse)
  if (!isMap(document.contents)) throw refuse('no options: expected a mapping such as "model: ./model"')
  return {
    file,
    values: values as Record<string, unknown>,
    lineOf: (path) => {
      const offset = offsetOf(document, path)
      return offset === undefined ? undefined : lines.linePos(offset).line
    },
  }
}

/** The parser itself throws on excess: of aliases, of depth. */
function attempt<T>(action: () => T, refuse: (found: string, offset: number, cause: unknown) => ConfigError): T {
  try {
    return action()
  } catch (cause) {
    throw refuse(messageOf(cause), 0, cause)
  }
}

function offsetOf(document: Document, path: readonly string[]): number | undefined {
  let node: unknown = document.contents
  let offset: number | undefined
  for (const key of path) {
    if (isSeq(node)) {
      node = node.items[Number(key)]
      if (isNode(node)) offset = node.range?.[0]
      continue
    }
    const pair = isMap(node)
      ? node.items.find((item) => isScalar(item.key) && String(item.key.value) === key)
      : undefined
    if (!pair) break
    if (isScalar(pair.key)) offset = pair.key.range?.[0]
    node = pair.value
  }
  return offset
}
