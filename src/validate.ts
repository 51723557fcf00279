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
  const issue = result.error.issues[0]!
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
  throw new ConfigError('E_CONFIG', `the option ${field} does not fit`, {
    field,
    expected: issue.message,
    found: JSON.stringify(valueAt(input, issue.path)) ?? 'nothing',
  })
}

/** "Did you mean": the nearest of `known`, where it is near. */
export function suggestion(word: string, known: readonly string[]): { remedy?: string } {
  if (known.length === 0) return {}
  const nearest = closest(word, known)
  return distance(word, nearest) <= Math.max(2, word.length / 3) ? { remedy: `did you mean ${nearest}?` } : {}
}

const valueAt = (input: unknown, path: readonly PropertyKey[]) =>
  path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], input)

/** The keys of the object schema at `path`. */
function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  const found = path.reduce<z.ZodType | undefined>(
    (inner, key) => objectOf(inner)?.shape[key as string] as z.ZodType | undefined,
    schema,
  )
  return Object.keys(objectOf(found)?.shape ?? {})
}

/** The object inside optional, default and the like. */
export function objectOf(schema: z.ZodType | undefined): z.ZodObject | undefined {
  if (schema instanceof z.ZodObject) return schema
  const inner = schema as { unwrap?: () => z.ZodType } | undefined
  return inner?.unwrap ? objectOf(inner.unwrap()) : undefined
}
