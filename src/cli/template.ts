import { stringify } from 'yaml'
import type { z } from 'zod'
import { type Field, keyOf, type Section, sectionOf } from './fields.ts'

/**
 * A schema as a commented YAML file: every option with what it is and its default, or what `values` (nested) give it.
 * Optional ones are commented out with # and no space; a section all of whose options have defaults is written out, unless
 * it lies in another and is off by default.
 */
export function configTemplate(schema: z.ZodObject, values: Record<string, unknown>): string {
  return `${sectionOf(schema)
    .entries.map((entry) => writeEntry(entry, values, '', false).join('\n'))
    .join('\n\n')}\n`
}

function writeEntry(entry: Field | Section, values: Record<string, unknown>, indent: string, off: boolean): string[] {
  const value = values[keyOf(entry)]
  const comment = commentOf(entry)
  const lines = comment ? [`${indent}# ${comment}`] : []
  if (!('entries' in entry)) {
    const chosen = value ?? entry.default ?? (entry.required ? entry.example : undefined)
    const isOff = off || chosen === undefined
    return [...lines, line(indent, `${keyOf(entry)}: ${inYaml(chosen ?? entry.example)}`, isOff)]
  }
  const isExtra = entry.optional && (indent !== '' || needsValues(entry))
  const isOff = off || (value === undefined && isExtra)
  const inner = entry.entries.flatMap((one) =>
    writeEntry(one, (value ?? {}) as Record<string, unknown>, `${indent}  `, isOff),
  )
  return [...lines, line(indent, `${keyOf(entry)}:`, isOff), ...inner]
}

// Not trimEnd, which would take a no-break space from a value.
const line = (indent: string, text: string, off: boolean) => `${indent}${off ? '#' : ''}${text}`.replace(/ $/, '')

const inYaml = (value: unknown): string =>
  value === undefined ? '' : stringify(value, { collectionStyle: 'flow', lineWidth: 0 }).replace(/\n$/, '')

const needsValues = ({ entries }: Section): boolean => entries.some((entry) => 'required' in entry && entry.required)

function commentOf(entry: Field | Section): string {
  const values = 'values' in entry && entry.values ? `(${entry.values.join(', ')})` : ''
  return [entry.description, values].filter(Boolean).join(' ')
}
