import { FileError, RunError } from '../errors.ts'

const remedies: Record<string, string> = {
  ENOENT: 'check the path',
  EACCES: 'check the permissions of the file and of its folder',
  EPERM: 'check the permissions of the file and of its folder',
  ENOTDIR: 'check the path: a part of it is a file',
  EROFS: 'choose a folder on a disk that can be written to',
  ENOSPC: 'free some space, or choose a folder on another disk',
  EDQUOT: 'free some space, or ask for a larger quota',
}

/** Runs `action`; what the system refuses becomes `E_FILE`. */
export function reading<T>(file: string, action: () => T): T {
  return translating(action, (error) => new FileError('E_FILE', `${file} cannot be read`, details(file, error)))
}

/** Runs `action`; what the system refuses (disk full, quota, read-only, I/O error) becomes `E_DISK`. */
export function writing<T>(file: string, action: () => T): T {
  return translating(action, (error) => new RunError('E_DISK', `${file} cannot be written`, details(file, error)))
}

function details(file: string, cause: NodeJS.ErrnoException) {
  return { file, found: cause.message, remedy: remedies[cause.code ?? ''] ?? 'check the disk', cause }
}

function translating<T>(action: () => T, translate: (error: NodeJS.ErrnoException) => Error): T {
  try {
    return action()
  } catch (error) {
    throw error instanceof Error && 'syscall' in error ? translate(error as NodeJS.ErrnoException) : error
  }
}
