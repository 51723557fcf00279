import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  formatPruning,
  type KeptLayer,
  type PruningPlan,
  readPruning,
  writePruning,
} from '../../src/formats/pruningJson.ts'
import { plan } from './pruningPlan.ts'
import { expectError, scratchFolder } from './scratch.ts'

const file = path.join(scratchFolder(), 'pruning.json')

test.each<[string, PruningPlan]>([
  ['all it can hold', { ...plan, calibration: 'corpus.txt' }],
  ['a core', { ...plan, core: plan.kept.map((kept) => ({ ...kept, channels: kept.channels.slice(1), kvHeads: [] })) }],
  ['a pattern', { ...plan, method: 'wanda', pattern: '4:8', kept: [] }],
  ['the least', { method: 'taylor', ratio: 0.5, layers: [0, 0], source: plan.source, kept: [] }],
])('a plan with %s is read back', (_, whole) => {
  writePruning(file, whole)
  expect(readPruning(file)).toEqual(whole)
})

test('on disk, keys are those of config.json and a layer is a line', () => {
  const text = formatPruning(plan)
  expect(JSON.parse(text)).toMatchObject({ format_version: 1, seed: 42, source: { num_key_value_heads: 2 } })
  expect(text.split('\n')).toContain('    {"layer":1,"channels":[2,4,6],"kv_heads":[0]}')
})

test('a checksum survives other spacing, but no other content', () => {
  writePruning(file, plan)
  const json = JSON.parse(readFileSync(file, 'utf8'))
  writeFileSync(file, JSON.stringify(json))
  expect(readPruning(file)).toEqual(plan)
})

test.each([
  ['kept channel', '[0,3,175]', '[0,4,175]'],
  ['kept head', '"kv_heads":[1]', '"kv_heads":[0]'],
  ['ratio', '"ratio": 0.65', '"ratio": 0.85'],
  ['source', 'sha256:00', 'sha256:01'],
  ['checksum', '"checksum": "sha256:', '"checksum": "sha256:0'],
])('edited to another %s, it is refused', (_, text, replacement) => {
  const edited = formatPruning(plan).replace(text, replacement)
  expect(edited).not.toBe(formatPruning(plan))
  writeFileSync(file, edited)
  expectError(() => readPruning(file), 'E_PLAN', { file, field: 'checksum' })
})

describe('a plan that cannot be', () => {
  const [first, second] = plan.kept as [PruningPlan['kept'][0], PruningPlan['kept'][0]]
  test.each<[string, Partial<PruningPlan>, string]>([
    ['a layer is missing', { kept: [first] }, 'kept'],
    ['layers are out of order', { kept: [second, first] }, 'kept'],
    ['layers go beyond the model', { layers: [0, 3] }, 'layers'],
    ['layers run backwards', { layers: [2, 0] }, 'layers'],
    ['nothing is kept', { kept: [{ ...first, channels: [] }, second] }, 'kept.0.channels'],
    ['channels are not sorted', { kept: [{ ...first, channels: [3, 0] }, second] }, 'kept.0.channels'],
    ['a head comes twice', { kept: [first, { ...second, kvHeads: [1, 1] }] }, 'kept.1.kv_heads'],
    ['a channel is negative', { kept: [{ ...first, channels: [-1, 0] }, second] }, 'kept.0.channels.0'],
    ['a channel is beyond the model', { kept: [{ ...first, channels: [176] }, second] }, 'kept, layer 0'],
    ['a head is beyond the model', { kept: [first, { ...second, kvHeads: [2] }] }, 'kept, layer 1'],
    ['all is cut', { ratio: 1 }, 'ratio'],
    ['the core is not kept', { core: [{ ...first, channels: [1] }] }, 'core, layer 0'],
    ['weights and structures are cut', { pattern: 'unstructured' }, 'kept'],
  ])('because %s is refused, on writing too', (_, change, field) => {
    const wrong = { ...plan, ...change }
    expectError(() => writePruning(file, wrong), 'E_PLAN', { field })
    const json = JSON.parse(formatPruning(plan))
    const toDisk = ({ layer, channels, kvHeads }: KeptLayer) => ({ layer, channels, kv_heads: kvHeads })
    const { core, layers, ratio, pattern } = wrong
    const head = { layers, ratio, pattern }
    const kept = wrong.kept.map(toDisk)
    writeFileSync(file, JSON.stringify({ ...json, ...head, kept, ...(core && { core: core.map(toDisk) }) }))
    expectError(() => readPruning(file), 'E_PLAN', { file, field })
  })
})

test('a newer version is refused', () => {
  writeFileSync(file, JSON.stringify({ format_version: 2, anything: [] }))
  expectError(() => readPruning(file), 'E_VERSION', { file, found: '2' })
})

test.each(['', '[]', '{}', '{"format_version": 1'])('%j is refused', (text) => {
  writeFileSync(file, text)
  expectError(() => readPruning(file), 'E_PLAN', { file })
})

test('a missing file is refused', () => {
  expectError(() => readPruning(`${file}.none`), 'E_PLAN', { file: `${file}.none` })
})
