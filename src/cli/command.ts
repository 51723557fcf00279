import type { Command } from 'commander'
import type { z } from 'zod'
import { readConfigFile } from './configFile.ts'
import { addFlags } from './flags.ts'
import { printJson } from './output.ts'
import { resolveOptions } from './resolve.ts'

/** A command: its options are a schema, its work is a call of the public API. */
export interface CommandSpec<Schema extends z.ZodObject = z.ZodObject, Result = unknown> {
  name: string
  description: string
  options: Schema
  /** Takes a configuration file as its argument. */
  takesConfigFile?: boolean
  run(options: z.output<Schema>, json: boolean): Promise<Result>
  /** The result for people; programs get it as JSON. */
  show(result: Result): string
}

/** Keeps the types of a spec together; a list of commands forgets them. */
export const command = <Schema extends z.ZodObject, Result>(spec: CommandSpec<Schema, Result>): CommandSpec =>
  spec as unknown as CommandSpec

export function addCommand(program: Command, { name, description, options, takesConfigFile, run, show }: CommandSpec) {
  const added = program.command(name).description(description)
  if (takesConfigFile) added.argument('[config.yaml]', 'options as YAML; flags win over it')
  addFlags(added, options)
  added.option('--json', 'the result as one line of JSON, the last of stdout')
  added.action(async () => {
    const { json = false, ...flags } = added.opts()
    const [file] = added.args
    const result = await run(
      resolveOptions(options, flags, file === undefined ? undefined : readConfigFile(file)),
      json,
    )
    if (json) printJson(result)
    else process.stdout.write(`${show(result)}\n`)
  })
}
