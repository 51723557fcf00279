import type { z } from 'zod'
import { ConfigError, type ErrorDetails } from '../errors.ts'
import { suggestion, validate } from '../validate.ts'
import type { ConfigFile } from './configFile.ts'
import { type Field, fieldsOf, flagOf } from './fields.ts'
import { type Flags, nest } from './flags.ts'

/**
 * Options from flags and a configuration file; flags win.
 * @throws {ConfigError} `E_CONFIG`: says where the option was given, and what may be meant
 */
export function resolveOptions<Schema extends z.ZodObject>(
  schema: Schema,
  flags: Flags,
  config?: ConfigFile,
): z.output<Schema> {
  const input = merge(config?.values ?? {}, nest(flags))
  try {
    return validate(schema, input)
  } catch (error) {
    if (error instanceof ConfigError) throw explain(error, fieldsOf(schema), input, flags, config)
    throw error
  }
}

function merge(base: unknown, over: unknown): unknown {
  if (!isObject(base) || !isObject(over)) return over
  return { ...base, ...Object.fromEntries(Object.entries(over).map(([key, value]) => [key, merge(base[key], value)])) }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The same error, with what only the command line knows: file and line, the flag, values that are near. */
function explain(
  { code, headline, details }: ConfigError,
  fields: readonly Field[],
  input: unknown,
  flags: Flags,
  config: ConfigFile | undefined,
): ConfigError {
  const path = details.field ?? ''
  const keys = path.split('.')
  const value = keys.reduce((inner, key) => (inner as Record<string, unknown> | undefined)?.[key], input as unknown)
  const missing = fields.find((field) => field.required && `${field.path}.`.startsWith(`${path}.`))
  if (missing && value === undefined) {
    return new ConfigError(code, `the option ${missing.path} is missing`, {
      ...(config && { file: config.file }),
      expected: missing.description,
      remedy: `give ${flagOf(missing.path)}${config ? `, or write ${missing.path} into the file` : ''}`,
    })
  }
  const field = fields.find((known) => `${path}.`.startsWith(`${known.path}.`))
  const origin = field && field.path in flags ? {} : whereIn(config, keys)
  return new ConfigError(code, headline, { ...details, ...origin, ...remedyFor(path, field, value, fields, details) })
}

function whereIn(config: ConfigFile | undefined, keys: readonly string[]): ErrorDetails {
  const line = config?.lineOf(keys)
  return line === undefined ? {} : { file: config!.file, line }
}

function remedyFor(
  path: string,
  field: Field | undefined,
  value: unknown,
  fields: readonly Field[],
  { remedy }: ErrorDetails,
): { remedy?: string } {
  if (remedy !== undefined) return { remedy }
  if (value === null) return { remedy: 'leave the key out, or write {} after it for the defaults' }
  if (!field) {
    const namesakes = fields.filter((known) => known.path.endsWith(`.${path.split('.').at(-1)}`))
    const elsewhere = namesakes.find(({ section }) => !section) ?? namesakes[0]
    return elsewhere ? { remedy: `did you mean ${elsewhere.path}?` } : {}
  }
  if (typeof value !== 'string') return {}
  if (field.values) return suggestion(value, field.values)
  const isNumber = field.type === 'number' && value.trim() !== '' && !Number.isNaN(Number(value))
  return isNumber ? { remedy: `write ${value.trim()} without quotes` } : {}
}
