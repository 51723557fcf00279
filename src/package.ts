import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'

/** The version of loram. */
export const { version } = createRequire(import.meta.url)('../package.json') as { version: string }

/** Where loram keeps what it can make again: `$XDG_CACHE_HOME/loram`, else `~/.cache/loram`. */
export const cacheFolder = (): string =>
  path.join(process.env.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'loram')
