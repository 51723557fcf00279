import { existsSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import { parse } from 'yaml'
import { ConfigError } from '../errors.ts'
import { writeFileAtomic } from '../formats/atomic.ts'
import { writing } from '../formats/disk.ts'
import { trainLoRAMOptions } from '../options/index.ts'
import { type Flags, nest } from './flags.ts'
import { resolveOptions } from './resolve.ts'
import { configTemplate } from './template.ts'

const header = `# Options of "loram train", with their defaults. Relative paths start at the working directory.
# Options commented out with # and no space are optional; remove the # to set them.

`

/** Writes a new configuration file for `train`, with the options that flags give. */
export function writeConfig(file: string, flags: Flags): void {
  if (existsSync(file)) {
    throw new ConfigError('E_CONFIG', `${file} is there already`, {
      file,
      remedy: 'remove it, or name another file',
    })
  }
  const text = header + configTemplate(trainLoRAMOptions, nest(flags))
  resolveOptions(trainLoRAMOptions, flags, { file, values: parse(text), lineOf: () => undefined })
  writing(file, () => mkdirSync(path.dirname(file), { recursive: true }))
  writeFileAtomic(file, text)
}
