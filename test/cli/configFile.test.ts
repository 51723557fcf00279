import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { readConfigFile } from '../../src/cli/configFile.ts'
import type { Flags } from '../../src/cli/flags.ts'
import { resolveOptions } from '../../src/cli/resolve.ts'
import { trainLoRAMOptions } from '../../src/options/index.ts'
import { expectError, scratchFolder } from '../formats/scratch.ts'

const file = path.join(scratchFolder(), 'loram.yaml')

function read(yaml: string, flags: Flags = {}) {
  writeFileSync(file, yaml)
  return resolveOptions(trainLoRAMOptions, flags, readConfigFile(file))
}

const base = 'model: m\ndata: {train: t}\noutput: o\n'
const bomb = ['a: &a0 [x]', ...Array.from({ length: 9 }, (_, i) => `${i}: &a${i + 1} [${`*a${i},`.repeat(9)}]`)]

test.each([
  ['an unknown key', `${base}lora:\n  rnak: 8\n`, { line: 5, field: 'lora.rnak', remedy: 'did you mean rank?' }],
  ['a key of another section', `learningRate: 1e-4\n${base}`, { line: 1, remedy: 'did you mean train.learningRate?' }],
  ['a number in quotes', `${base}train:\n  learningRate: "1e-4"\n`, { line: 5, remedy: 'write 1e-4 without quotes' }],
  ['a wrong type', `${base}lora:\n  alpha: 1\n  rank: many\n`, { line: 6, field: 'lora.rank', found: '"many"' }],
  ['a wrong value', `${base}quantize: nf5\n`, { line: 4, remedy: 'did you mean nf4?' }],
  [
    'a wrong item',
    `${base}lora:\n  targets:\n    - q_proj\n    - k_prj\n`,
    { line: 7, remedy: 'did you mean k_proj?' },
  ],
  ['an empty section', `${base}prune:\n`, { line: 4, remedy: expect.stringContaining('{}') }],
  ['a missing option', 'model: m\noutput: o\n', { remedy: expect.stringContaining('--data.train') }],
  [
    'a key that comes twice',
    'model: m\ndata:\n  train: a\n  train: b\n',
    { line: 4, found: 'Map keys must be unique' },
  ],
  ['no YAML', 'model: [m\n', { line: 2 }],
  ['a tag', 'model: !!js/function x\n', { line: 1, found: expect.stringContaining('tag') }],
  ['two documents', `${base}---\n${base}`, { found: expect.stringContaining('multiple documents') }],
  ['aliases that multiply', bomb.join('\n'), { found: expect.stringContaining('alias') }],
  ['deep nesting', `model: ${'['.repeat(1e5)}`, { file }],
  ['a list', '- model\n', { found: expect.stringContaining('mapping') }],
  ['nothing', '# only a comment\n', { found: expect.stringContaining('mapping') }],
  ['__proto__', `${base}__proto__: {seed: 1}\n`, { line: 4, field: '__proto__' }],
])('%s', (_, yaml, details) => {
  expectError(() => read(yaml), 'E_CONFIG', { file, ...details })
})

test('anchors, and numbers as YAML writes them', () => {
  const options = read(`${base}train: {learningRate: 1e-4, warmupSteps: &n 0x10, evalSteps: *n}\n`)
  expect(options.train).toMatchObject({ learningRate: 1e-4, warmupSteps: 16, evalSteps: 16 })
})

test('flags win over the file, option by option', () => {
  const yaml = `${base}lora: {rank: 4, alpha: 8}\n`
  const flags = { 'lora.rank': 2, 'data.train': ['u', 'v'], 'prune.ratio': 0.5 }
  expect(read(yaml, flags)).toMatchObject({
    lora: { rank: 2, alpha: 8 },
    data: { train: ['u', 'v'] },
    prune: { ratio: 0.5, method: 'structured' },
  })
})

test('a flag that is wrong is not the fault of a line of the file', () => {
  writeFileSync(file, `${base}lora: {rank: 4}\n`)
  const config = readConfigFile(file)
  try {
    resolveOptions(trainLoRAMOptions, { 'lora.rank': 'x' }, config)
    expect.unreachable()
  } catch (error) {
    expect(error).toMatchObject({ code: 'E_CONFIG', details: { field: 'lora.rank', found: '"x"' } })
    expect(error).not.toHaveProperty('details.line')
  }
})
