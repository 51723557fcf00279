import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Command } from 'commander'
import { parse } from 'yaml'
import { ConfigError } from '../../errors.ts'
import { writing } from '../../formats/disk.ts'
import { trainLoRAMOptions } from '../../options/index.ts'
import { addFlags, type Flags, nest } from '../flags.ts'
import { printJson } from '../output.ts'
import { resolveOptions } from '../resolve.ts'
import { configTemplate } from '../template.ts'

const header = `# Options of "loram train", with their defaults. Relative paths start at the working directory.
# Options commented out with # and no space are optional; remove the # to set them.

`
/** Adds the command that writes a configuration file; it takes the flags of `train` and writes them in. */
export function addInit(program: Command): void {
  const init = program
    .command('init')
    .description('Write a commented configuration file for train, with the options that flags give')
    .argument('[file]', 'the file to write', 'loram.yaml')
  addFlags(init, trainLoRAMOptions)
  init.option('--json', 'the result as one line of JSON, the last of stdout')
  init.action((file: string) => {
    const { json = false, ...flags } = init.opts()
    writeConfig(file, flags)
    if (json) printJson({ file })
    else process.stdout.write(`wrote ${file}; edit it, then: loram train ${file}\n`)
  })
}

function writeConfig(file: string, flags: Flags): void {
  if (existsSync(file)) {
    throw new ConfigError('E_CONFIG', `${file} is there already`, {
      file,
      remedy: 'remove it, or name another file',
    })
  }
  const text = header + configTemplate(trainLoRAMOptions, nest(flags))
  resolveOptions(trainLoRAMOptions, flags, { file, values: parse(text), lineOf: () => undefined })
  writing(file, () => {
    mkdirSync(path.dirname(file), { recursive: true })
    writeFileSync(file, text, { flag: 'wx' })
  })
}
