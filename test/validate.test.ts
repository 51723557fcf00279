import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { chatMessages, evaluateOptions, pruneCommandOptions, trainLoRAMOptions } from '../src/options/index.ts'
import { suggestion, validate } from '../src/validate.ts'
import { expectError } from './formats/scratch.ts'

const run = (over: object) => ({ model: 'm', output: 'o', data: { train: 'd' }, ...over })

const circular: Record<string, unknown> = {}
circular.self = circular

test.each([
  [Number.NaN, 'NaN'],
  [Number.POSITIVE_INFINITY, 'Infinity'],
  [42n, '42n'],
  [[42n, 1], '[ 42n, 1 ]'],
  [circular, '<ref *1> { self: [Circular *1] }'],
  [Symbol('seed'), 'Symbol(seed)'],
  [null, 'null'],
  [undefined, 'nothing'],
  ['7', '"7"'],
  [{ a: [1] }, '{"a":[1]}'],
])('%o is shown as it is', (value, found) => {
  expectError(() => validate(z.strictObject({ seed: z.int() }), { seed: value }), 'E_CONFIG', { field: 'seed', found })
})

describe('a choice says what there is to choose from', () => {
  const list = 'a path, or a list of paths'
  test.each([
    ['data.train', trainLoRAMOptions, run({ data: {} }), list],
    ['data.train', trainLoRAMOptions, run({ data: { train: 5 } }), list],
    ['data', evaluateOptions, {}, list],
    ['recover.scale', trainLoRAMOptions, run({ recover: { scale: 'x' } }), 'number or "auto"'],
    ['targetParams', pruneCommandOptions, { model: 'm', output: 'o', targetParams: 1.5 }, 'string or int'],
  ])('%s of %#', (field, schema, input, expected) => {
    expectError(() => validate(schema, input), 'E_CONFIG', { field, expected })
  })
})

describe('an unknown key', () => {
  test('in a list is told the keys that are known there', () => {
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'user', content: 'a', rol: 'b' },
    ]
    expectError(() => validate(z.strictObject({ messages: chatMessages }), { messages }), 'E_CONFIG', {
      field: 'messages.1.rol',
      expected: 'role, content',
      remedy: 'did you mean role?',
    })
  })

  test('comes before the key that is missing by its right name', () => {
    expectError(() => validate(trainLoRAMOptions, { model: 'm', data: { train: 'd' }, outputs: 'o' }), 'E_CONFIG', {
      field: 'outputs',
      remedy: 'did you mean output?',
    })
  })
})

test('what does not fit as a whole has no field', () => {
  for (const input of [undefined, null, 5]) {
    expectError(() => validate(trainLoRAMOptions, input), 'E_CONFIG', { expected: 'object' })
    expect(() => validate(trainLoRAMOptions, input)).toThrow(/^\[E_CONFIG\] the options do not fit\n {2}expected/)
  }
})

test('a word is not suggested for itself', () => {
  expect(suggestion('aligned', ['aligned', 'llm-pruner'])).toEqual({})
  expect(suggestion('alined', ['aligned', 'llm-pruner'])).toEqual({ remedy: 'did you mean aligned?' })
})
