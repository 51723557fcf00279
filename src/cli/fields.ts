import { z } from 'zod'

/** One option of a schema, as flags, configuration files and documentation show it. */
export interface Field {
  /** Dotted, as the keys of a configuration file nest: `train.learningRate`. */
  path: string
  type: 'boolean' | 'number' | 'string'
  isList: boolean
  /** Those it can have, where only these are allowed. */
  values?: readonly string[]
  description: string
  default?: unknown
  example?: unknown
  /** Must be given, where its section is. */
  required: boolean
  /** The optional section it lies in. */
  section?: string
}

/** A group of options: the whole schema, or one key of it that has options of its own. */
export interface Section {
  /** Dotted; '' for the whole schema. */
  path: string
  description: string
  entries: readonly (Field | Section)[]
  /** Has no effect unless something of it is given. */
  optional: boolean
}

type Json = z.core.JSONSchema.JSONSchema

/** What there is to set in a schema, in its order. */
export const sectionOf = (schema: z.ZodObject): Section => section('', z.toJSONSchema(schema, { io: 'input' }))

/** All options of a schema, those of sections included. */
export function fieldsOf(schema: z.ZodObject): Field[] {
  const flat = ({ entries }: Section): Field[] =>
    entries.flatMap((entry) => ('entries' in entry ? flat(entry) : [entry]))
  return flat(sectionOf(schema))
}

/** The last part of a dotted path. */
export const keyOf = ({ path }: Field | Section): string => path.split('.').at(-1)!

/** The flag that sets an option: `train.learningRate` is `--train.learning-rate`. */
export const flagOf = (path: string): string => `--${path.replace(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`)}`

function section(path: string, json: Json, optional = false, within?: string): Section {
  const optionalSection = optional ? path : within
  const entries = Object.entries(json.properties ?? {}).map(([key, property]) => {
    const inner = property as Json
    const innerPath = path ? `${path}.${key}` : key
    const required = json.required?.includes(key) ?? false
    return inner.properties
      ? section(innerPath, inner, !required && inner.default === undefined, optionalSection)
      : { ...field(innerPath, inner, required), ...(optionalSection && { section: optionalSection }) }
  })
  return { path, description: json.description ?? '', entries, optional }
}

function field(path: string, json: Json, required: boolean): Field {
  const alternatives = (json.anyOf ?? [json]) as Json[]
  const list = alternatives.find(({ type }) => type === 'array')
  const value = list ? ((list.prefixItems?.[0] ?? list.items) as Json) : alternatives[0]!
  return {
    path,
    type: value.type === 'integer' ? 'number' : (value.type as Field['type']),
    isList: list !== undefined,
    ...(value.enum && { values: value.enum as string[] }),
    description: json.description ?? '',
    default: json.default,
    example: json.examples?.[0],
    required,
  }
}
