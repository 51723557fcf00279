import { createHash, randomUUID } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { writing } from '../formats/disk.ts'
import { cacheFolder, version } from '../package.ts'
import { readBytes } from './lines.ts'
import type { DataStatistics } from './statistics.ts'
import { TokenFile, TokenFileWriter } from './tokenFile.ts'

/** An encoded data set. Whoever loads one closes it. */
export type Dataset = TokenFile<DataStatistics>

/** Encodes a data set into `writer`. */
type Encode = (writer: TokenFileWriter) => Promise<DataStatistics>

/** A data set in a file that no folder lists: the system frees it when it is closed, or when the process ends. */
export function uncached(encode: Encode): Promise<Dataset> {
  const file = path.join(os.tmpdir(), `loram-${randomUUID()}.tokens`)
  const fd = writing(file, () => openSync(file, 'wx+'))
  rmSync(file)
  return write(fd, file, encode)
}

/**
 * A data set from the cache; encoded and kept there where it is new.
 * @param files what it is made of: their content counts, not their names
 * @param facts everything else that decides how it is encoded
 * @param notice is told of a damaged file, which is replaced
 * @throws {RunError} `E_DISK`: the cache cannot be written
 */
export async function cached(
  files: readonly string[],
  facts: object,
  notice: (message: string) => void,
  encode: Encode,
): Promise<Dataset> {
  const folder = path.join(cacheFolder(), 'tokens')
  const file = path.join(folder, `${await keyOf(files, facts)}.tokens`)
  if (existsSync(file)) {
    const kept = TokenFile.open<DataStatistics>(file)
    if (kept) return kept
    notice(`${file} is damaged; the data are encoded again`)
  }
  const temporary = `${file}.tmp-${randomUUID()}`
  const fd = writing(folder, () => {
    mkdirSync(folder, { recursive: true })
    removeAbandoned(folder)
    return openSync(temporary, 'wx+')
  })
  try {
    const dataset = await write(fd, file, encode)
    writing(file, () => renameSync(temporary, file))
    return dataset
  } finally {
    rmSync(temporary, { force: true })
  }
}

/** Closes `fd` where it fails. */
async function write(fd: number, file: string, encode: Encode): Promise<Dataset> {
  try {
    const writer = new TokenFileWriter(fd, file)
    return writer.end(await encode(writer))
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** Raise it when the same records come to be encoded in another way. */
const encoding = 1

async function keyOf(files: readonly string[], facts: object): Promise<string> {
  const key = createHash('sha256').update(JSON.stringify({ version, encoding, ...facts }))
  for (const file of files) {
    const hash = createHash('sha256')
    for await (const chunk of readBytes(file)) hash.update(chunk)
    // the extension decides how a file is read
    key.update(`\n${path.basename(file).replace(/^[^.]*/, '')} ${hash.digest('hex')}`)
  }
  return key.digest('hex')
}

const dayMilliseconds = 24 * 60 * 60 * 1000

/** Removes what killed processes left; whoever still writes has touched its file since. */
function removeAbandoned(folder: string): void {
  for (const name of readdirSync(folder).filter((entry) => entry.includes('.tmp-'))) {
    const file = path.join(folder, name)
    const touched = statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? Date.now()
    if (Date.now() - touched > dayMilliseconds) rmSync(file, { force: true })
  }
}
