import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeSync,
} from 'node:fs'
import path from 'node:path'
import { FileError } from '../errors.ts'
import { writing } from './disk.ts'

/** Linux writes at most 2 GiB less a page at a time. */
const largestWrite = 2 ** 30

/** Writes all of `bytes` at the position where `fd` is. */
export function writeFully(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) {
    at += writeSync(fd, bytes, at, Math.min(largestWrite, bytes.length - at))
  }
}

/**
 * Replaces `file` by what `write` puts into a descriptor. A reader, also after a crash or power loss, finds the old file or
 * the whole new one: temporary file in the same folder, fsync, rename, fsync of the folder.
 * @throws {RunError} `E_DISK`; the temporary file is gone and the old file is as it was.
 */
export function replaceFile(file: string, write: (fd: number) => void): void {
  const temporary = `${file}.tmp-${process.pid}`
  writing(file, () => {
    try {
      const fd = openSync(temporary, 'w')
      try {
        write(fd)
        fsyncSync(fd)
      } finally {
        closeSync(fd)
      }
      renameSync(temporary, file)
    } catch (error) {
      rmSync(temporary, { force: true })
      throw error
    }
    syncFolder(path.dirname(file))
  })
}

/** Replaces `file` by `content`; see `replaceFile`. */
export function writeFileAtomic(file: string, content: Uint8Array | string): void {
  replaceFile(file, (fd) => writeFully(fd, typeof content === 'string' ? Buffer.from(content) : content))
}

/**
 * Builds the folder `dir`: `fill` writes its files, each atomically, into a temporary folder beside it, which then takes its
 * name. If `dir` holds files already, the new ones are moved in one by one and the others stay.
 * @throws {RunError} `E_DISK`; the temporary folder is gone.
 */
export function buildFolder(dir: string, fill: (temporary: string) => void): void {
  const target = path.resolve(dir)
  const temporary = `${target}.tmp-${process.pid}`
  writing(target, () => {
    try {
      rmSync(temporary, { recursive: true, force: true })
      mkdirSync(temporary, { recursive: true })
      fill(temporary)
      moveInto(temporary, target)
    } catch (error) {
      rmSync(temporary, { recursive: true, force: true })
      throw error
    }
    syncFolder(path.dirname(target))
  })
}

function moveInto(temporary: string, target: string): void {
  if (!isOccupied(target)) {
    renameSync(temporary, target)
    return
  }
  for (const name of readdirSync(temporary)) renameSync(path.join(temporary, name), path.join(target, name))
  rmdirSync(temporary)
  syncFolder(target)
}

/**
 * Refuses a folder that holds files already, where old and new ones must not mix. Commands call it before they work for hours.
 * @throws {FileError} `E_FILE`
 */
export function requireVacant(dir: string): void {
  if (!isOccupied(dir)) return
  throw new FileError('E_FILE', `${dir} is not empty`, {
    file: dir,
    expected: 'a new or an empty folder',
    remedy: 'choose another folder, or remove this one',
  })
}

/**
 * Refuses a folder that holds a model or an adapter already, before an adapter is written to it.
 * @throws {FileError} `E_FILE`
 */
export function requireNoModel(dir: string): void {
  const file = ['config.json', 'adapter_config.json'].map((name) => path.join(dir, name)).find(existsSync)
  if (file === undefined) return
  throw new FileError('E_FILE', `${dir} holds a model or an adapter already`, {
    file,
    expected: 'a folder for a new adapter',
    remedy: 'choose another folder, or remove what is there',
  })
}

function isOccupied(dir: string): boolean {
  return existsSync(dir) && readdirSync(dir).length > 0
}

function syncFolder(dir: string): void {
  const fd = openSync(dir, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
