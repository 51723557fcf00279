import type { Command } from 'commander'
import type { z } from 'zod'
import { ConfigError } from '../errors.ts'
import { isLeader } from '../ranks.ts'
import { fieldsOf, flagOf } from './fields.ts'
import { addFlags } from './flags.ts'
import { printJson } from './output.ts'
import { resolveOptions } from './resolve.ts'

/** A command: its options are a schema, its work is a call of the public API. */
export interface CommandSpec<Schema extends z.ZodObject = z.ZodObject, Result = unknown> {
  /** One word, or a group of commands and one of it. */
  name: string
  description: string
  options: Schema
  /** Takes a configuration file as its argument. */
  takesConfigFile?: boolean
  /** An option that may be given as the command's argument. */
  argument?: string
  run(options: z.output<Schema>, json: boolean): Promise<Result>
  /** The result for people; programs get it as JSON. */
  show(result: Result): string
}

/** Keeps the types of a spec together; a list of commands forgets them. */
export const command = <Schema extends z.ZodObject, Result>(spec: CommandSpec<Schema, Result>): CommandSpec =>
  spec as unknown as CommandSpec

export function addCommand(program: Command, spec: CommandSpec) {
  const { name, description, options, takesConfigFile, argument, run, show } = spec
  const [last = name, group] = name.split(' ').reverse()
  const parent = group === undefined ? program : groupOf(program, group)
  const added = parent.command(last).description(description)
  const isList = fieldsOf(options).some((field) => field.path === argument && field.isList)
  if (takesConfigFile) added.argument('[config.yaml]', 'options as YAML; flags win over it')
  if (argument) added.argument(`[${argument}${isList ? '...' : ''}]`, `the same as ${flagOf(argument)}`)
  addFlags(added, options)
  added.option('--json', 'the result as one line of JSON, the last of stdout')
  added.action(async () => {
    const { json = false, ...flags } = added.opts()
    const [given] = added.args
    if (argument && given !== undefined) {
      if (argument in flags) throw givenTwice(argument)
      flags[argument] = isList ? added.args : given
    }
    const config = takesConfigFile && given !== undefined ? await readConfig(given) : undefined
    const result = await run(resolveOptions(options, flags, config), json)
    if (!isLeader()) return
    if (json) printJson(result)
    else process.stdout.write(`${show(result)}\n`)
  })
}

// What only some commands need, such as YAML, charts and progress bars, is loaded by those: it takes an eighth of the time that
// a command takes to start.
const readConfig = async (file: string) => (await import('./configFile.ts')).readConfigFile(file)

const givenTwice = (argument: string) =>
  new ConfigError('E_CONFIG', `${argument} is given twice`, {
    field: argument,
    found: `arguments, and ${flagOf(argument)}`,
    remedy: 'give all of it one way',
  })

const groupOf = (program: Command, name: string): Command =>
  program.commands.find((known) => known.name() === name) ??
  program.command(name).description(`See: loram ${name} --help`)
