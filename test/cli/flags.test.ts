import { Command } from 'commander'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { type Field, fieldsOf, flagOf } from '../../src/cli/fields.ts'
import { addFlags, nest, takesCommas } from '../../src/cli/flags.ts'
import { configTemplate } from '../../src/cli/template.ts'
import { trainLoRAMOptions } from '../../src/options/index.ts'

const fields = fieldsOf(trainLoRAMOptions)

/** Values of the type that a field takes, in range or not. */
function arbitraryValue({ type, values, isList }: Field): fc.Arbitrary<unknown> {
  const scalars = {
    boolean: fc.boolean(),
    number: fc.double({ noNaN: true, noDefaultInfinity: true }).map((number) => number + 0),
    string: fc.string({ unit: 'grapheme' }),
  }
  const one: fc.Arbitrary<unknown> = values ? fc.constantFrom(...values) : scalars[type]
  return isList ? fc.array(one, { minLength: 1, maxLength: 3 }) : one
}

/** Any choice of options with values, by their paths. */
const anyOptions = fc
  .record(Object.fromEntries(fields.map((field) => [field.path, arbitraryValue(field)])), { requiredKeys: [] })
  .map((record): Record<string, unknown> => record)

function asFlags(options: Record<string, unknown>): string[] {
  return fields.flatMap((field) => {
    const { path, type, isList } = field
    const value = options[path]
    if (value === undefined) return []
    if (type === 'boolean') return [value ? flagOf(path) : flagOf(path).replace('--', '--no-')]
    const texts = isList ? (value as unknown[]).map(String) : [String(value)]
    return takesCommas(field) ? [flagOf(path), texts.join(',')] : texts.flatMap((text) => [flagOf(path), text])
  })
}

describe('every option of the schema', () => {
  test('is a flag whose value arrives as it was given', () => {
    const property = fc.property(anyOptions, (options) => {
      const command = new Command()
      addFlags(command, trainLoRAMOptions)
      command.parse(asFlags(options), { from: 'user' })
      expect(command.opts()).toEqual(options)
    })
    fc.assert(property)
  })

  test('is in the file that init writes, with the value it was given', () => {
    const property = fc.property(anyOptions, (options) => {
      expect(parse(configTemplate(trainLoRAMOptions, nest(options)))).toMatchObject(nest(options))
    })
    fc.assert(property, { examples: [[{ output: '\u00a0' }]] })
  })

  test('says what it is', () => {
    expect(fields.filter(({ description }) => description === '')).toEqual([])
  })
})

test('a file of defaults is what the schema fills in', () => {
  const required = { model: 'm', data: { train: 't' }, output: 'o' }
  const written = trainLoRAMOptions.parse(parse(configTemplate(trainLoRAMOptions, required)))
  expect(written).toEqual(trainLoRAMOptions.parse({ ...required, prune: {} }))
})

test('options that are off become valid when their # is taken away', () => {
  const text = configTemplate(trainLoRAMOptions, {})
    .replace(/^( {0,2})#(?=\w+: \S)/gm, '$1') // sections within sections stay off
    .replace('#align:', 'align:')
  const written = trainLoRAMOptions.parse(parse(text))
  expect(written).toMatchObject({
    align: { steps: 400, batchSize: 128 },
    data: { eval: 'eval.jsonl' },
    memory: '12 GiB',
  })
})
