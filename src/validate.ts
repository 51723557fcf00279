import { inspect } from 'node:util'
import { closest, distance } from 'fastest-levenshtein'
import { z } from 'zod'
import { ConfigError } from './errors.ts'

/**
 * `input` as `schema` has it, defaults filled in.
 * @throws {ConfigError} `E_CONFIG`: the first thing that is wrong, by its path, and for an unknown key what may be meant
 */
export function validate<Schema extends z.ZodType>(schema: Schema, input: unknown): z.output<Schema> {
  const result = schema.safeParse(input)
  if (result.success) return result.data
  // A key that is missing may be there by a wrong name
  const { issues } = result.error
  const issue = issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0]!
  const field = issue.path.join('.')
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!
    const known = keysAt(schema, issue.path)
    throw new ConfigError('E_CONFIG', `unknown option ${[...issue.path, key].join('.')}`, {
      field: [...issue.path, key].join('.'),
      expected: known.join(', '),
      ...suggestion(key, known),
    })
  }
  throw new ConfigError('E_CONFIG', field ? `the option ${field} does not fit` : 'the options do not fit', {
    ...(field && { field }),
    expected: wanted(issue),
    found: shown(valueAt(input, issue.path)),
  })
}

/** What JavaScript gave as options, or none: what is missing then is named as any other. */
export const orNone = <Options extends object>(given: Options | null | undefined): Options => given ?? ({} as Options)

/** What an issue asks for. What is there instead is said beside it. */
function wanted(issue: z.core.$ZodIssue): string {
  const isUndescribed = issue.code === 'invalid_union' && issue.message === 'Invalid input'
  if (isUndescribed) return issue.errors.map(([first]) => wanted(first!)).join(' or ')
  return issue.message.replace(/^Invalid input: expected (.+?)(, received .+)?$/, '$1')
}

/** A value for people: as JSON has it, where JSON has it. */
function shown(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (typeof value === 'number') return String(value)
  try {
    const json = JSON.stringify(value)
    if (json !== undefined) return json
  } catch {} // circular, or holds a bigint
  return inspect(value, { breakLength: Number.POSITIVE_INFINITY })
}

/** "Did you mean": the nearest of `known`, where it is near. */
export function suggestion(word: string, known: readonly string[]): { remedy?: string } {
  if (known.length === 0) return {}
  const nearest = closest(word, known)
  if (nearest === word) return {}
  return distance(word, nearest) <= Math.max(2, word.length / 3) ? { remedy: `did you mean ${nearest}?` } : {}
}

const valueAt = (input: unknown, path: readonly PropertyKey[]) =>
  path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], input)

/** The keys of the object schema at `path`. Those of a list's elements are found in the list. */
function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  const found = path.reduce<z.ZodType | undefined>(
    (inner, key) =>
      typeof key === 'number' ? inner : (objectOf(inner)?.shape[key as string] as z.ZodType | undefined),
    schema,
  )
  return Object.keys(objectOf(found)?.shape ?? {})
}

/** The object inside optional, default, a list and the like. */
export function objectOf(schema: z.ZodType | undefined): z.ZodObject | undefined {
  if (schema instanceof z.ZodObject) return schema
  const inner = schema as { unwrap?: () => z.ZodType } | undefined
  return inner?.unwrap ? objectOf(inner.unwrap()) : undefined
}
