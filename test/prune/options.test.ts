import { describe, expect, test } from 'vitest'
import { pruneCommandOptions, trainLoRAMOptions } from '../../src/options/index.ts'
import { validate } from '../../src/validate.ts'
import { expectError } from '../formats/scratch.ts'

const command = { model: 'm', output: 'o' }
const run = (prune: object) => ({ model: 'm', output: 'o', data: { train: 'd' }, prune })

describe('pruning options that the method would not read are refused', () => {
  test.each([
    ['criterion', { criterion: 'wanda' }, 'of structured: taylor, taylor-second, magnitude'],
    ['criterion', { method: 'unstructured', criterion: 'taylor' }, 'of unstructured: sparsegpt, wanda, magnitude'],
    ['criterion', { method: 'random', criterion: 'magnitude' }, 'none: random goes by the seed alone'],
    ['pattern', { pattern: '2:4' }, 'method semi-structured with it'],
    ['ratio', { method: 'semi-structured', ratio: 0.5 }, 'none: the pattern says'],
    ['grouping', { method: 'random', grouping: 'aligned' }, 'method structured with it'],
    ['allocation', { method: 'random', allocation: 'importance' }, 'method structured with importance'],
    ['allocation', { method: 'unstructured', allocation: 'uniform' }, 'method structured or random with it'],
    ['targetParams', { method: 'unstructured', targetParams: '1B' }, 'keep all shapes'],
    ['targetParams', { ratio: 0.5, targetParams: '1B' }, 'one of ratio and targetParams'],
    ['calibration', { method: 'random', calibration: {} }, 'none: random is not measured on text'],
    ['calibration', { criterion: 'magnitude', calibration: { samples: 3 } }, 'none: magnitude is not measured on text'],
  ])('%s of %j', (field, given, expected) => {
    const details = { expected: expect.stringContaining(expected) }
    expectError(() => validate(pruneCommandOptions, { ...command, ...given }), 'E_CONFIG', { field, ...details })
    expectError(() => validate(trainLoRAMOptions, run(given)), 'E_CONFIG', { field: `prune.${field}`, ...details })
  })

  test.each([
    {},
    { criterion: 'taylor-second', grouping: 'llm-pruner', allocation: 'importance', targetParams: '1B' },
    { method: 'random', ratio: 0.3, allocation: 'uniform' },
    { method: 'semi-structured', pattern: '2:4', criterion: 'wanda', layers: [0, 2], calibration: { samples: 2 } },
    { method: 'unstructured', ratio: 0.55, criterion: 'magnitude' },
  ])('%j is accepted', (given) => {
    expect(validate(pruneCommandOptions, { ...command, ...given })).toMatchObject(given)
  })
})
