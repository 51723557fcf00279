import { type Command, Option } from 'commander'
import type { z } from 'zod'
import { type Field, fieldsOf, flagOf } from './fields.ts'

/** Values of flags by the dotted paths of their options. */
export type Flags = Record<string, unknown>

const placeholders = { number: '<number>', string: '<text>', boolean: '' }

/** Gives a command a flag for every option of `schema`. */
export function addFlags(command: Command, schema: z.ZodObject): void {
  for (const field of fieldsOf(schema)) {
    const { path, type } = field
    const placeholder = field.values ? '<name>' : placeholders[type]
    const option = new Option(`${flagOf(path)} ${placeholder}`.trim(), describe(field)).helpGroup(groupOf(path))
    if (type !== 'boolean') option.argParser((text, previous: unknown) => parse(field, text, previous))
    command.addOption(option)
    if (type === 'boolean') command.addOption(new Option(flagOf(path).replace('--', '--no-')).hideHelp())
  }
}

/** The options that `flags` set, nested as a configuration file nests them. */
export function nest(flags: Flags): Record<string, unknown> {
  const root: Record<string, unknown> = {}
  for (const [path, value] of Object.entries(flags)) {
    const keys = path.split('.')
    const last = keys.pop()!
    let target = root
    for (const key of keys) {
      target[key] ??= {}
      target = target[key] as Record<string, unknown>
    }
    target[last] = value
  }
  return root
}

function parse(field: Field, text: string, previous: unknown): unknown {
  if (!field.isList) return scalar(field, text)
  const items = takesCommas(field) ? text.split(',') : [text]
  const before = (previous ?? []) as unknown[]
  return [...before, ...items.map((item) => scalar(field, item))]
}

/** Lists of names and numbers do; paths and texts may hold commas themselves. */
export const takesCommas = ({ values, type }: Field): boolean => values !== undefined || type === 'number'

/** A text that is no number stays one, for the schema to refuse. */
function scalar({ type }: Field, text: string): unknown {
  const number = Number(text)
  return type === 'number' && text.trim() !== '' && !Number.isNaN(number) ? number : text
}

const groupOf = (path: string): string => (path.includes('.') ? `${path.split('.')[0]}:` : 'Options:')

/** What help says of an option. */
function describe(field: Field): string {
  const { description, values, isList, default: value, required, section } = field
  const notes = [
    ...(values ? [values.join(', ')] : []),
    ...(isList ? [takesCommas(field) ? 'several by commas' : 'several by repeating the flag'] : []),
    ...(required ? [section ? `required with ${section}` : 'required'] : []),
    ...(value === undefined || value === false ? [] : [`default: ${[value].flat().join(', ')}`]),
  ]
  return notes.length > 0 ? `${description} (${notes.join('; ')})` : description
}
