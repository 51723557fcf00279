import type { Command } from 'commander'
import { trainLoRAMOptions } from '../../options/index.ts'
import { addFlags } from '../flags.ts'
import { printJson } from '../output.ts'

/** Adds the command that writes a configuration file; it takes the flags of `train` and writes them in. */
export function addInit(program: Command): void {
  const init = program
    .command('init')
    .description('Write a commented configuration file for train, with the options that flags give')
    .argument('[file]', 'the file to write', 'loram.yaml')
  addFlags(init, trainLoRAMOptions)
  init.option('--json', 'the result as one line of JSON, the last of stdout')
  init.action(async (file: string) => {
    const { writeConfig } = await import('../writeConfig.ts')
    const { json = false, ...flags } = init.opts()
    writeConfig(file, flags)
    if (json) printJson({ file })
    else process.stdout.write(`wrote ${file}; edit it, then: loram train ${file}\n`)
  })
}
