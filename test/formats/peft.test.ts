import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { readAdapter, writeAdapter } from '../../src/formats/peft.ts'
import { openSafetensors, type TensorEntry, writeSafetensors } from '../../src/formats/safetensors.ts'
import { type Adapter, type AdapterModule, scaleOf } from '../../src/lora/adapter.ts'
import { goldenPath } from '../golden.ts'
import { expectError, scratchFolder } from './scratch.ts'

const scratch = scratchFolder()
const dir = path.join(scratch, 'adapter')
const configFile = path.join(dir, 'adapter_config.json')
const weightsFile = path.join(dir, 'adapter_model.safetensors')
const prefix = 'base_model.model.model.layers.0.self_attn.'

beforeEach(() => {
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir)
})

const plainConfig = { peft_type: 'LORA', r: 2, lora_alpha: 4, target_modules: ['q_proj'] }
const pair = (rank: number, module = `${prefix}q_proj`): TensorEntry[] => [
  { name: `${module}.lora_A.weight`, dtype: 'f32', shape: [rank, 3] },
  { name: `${module}.lora_B.weight`, dtype: 'f32', shape: [5, rank] },
]

/** Writes an adapter of such tensors, filled with 1, 2, 3, ... */
function make(config: object, entries: readonly TensorEntry[]): void {
  writeFileSync(configFile, JSON.stringify({ ...plainConfig, ...config }))
  writeSafetensors(weightsFile, entries, (name) => {
    const elements = entries.find((entry) => entry.name === name)!.shape.reduce((n, size) => n * size, 1)
    return new Uint8Array(Float32Array.from({ length: elements }, (_, i) => i + 1).buffer)
  })
}

/** `scale * B A`, row-major. */
function update(adapter: Adapter, { a, b }: AdapterModule): number[] {
  const [rank, inputs] = a.shape
  return Array.from({ length: b.shape[0] * inputs }, (_, i) => {
    const [row, column] = [Math.floor(i / inputs), i % inputs]
    let sum = 0
    for (let r = 0; r < rank; r++) sum += b.data[row * rank + r]! * a.data[r * inputs + column]!
    return scaleOf(adapter) * sum
  })
}

describe.each([
  ['lora', 'adapter', 14],
  ['lora', 'adapter-after-3-steps', 14],
  ['loram', 'adapter-pruned', 29],
  ['loram', 'adapter-recovered', 29],
])('PEFT wrote %s/%s', (folder, name, modules) => {
  const golden = goldenPath(folder, name)

  test('and it is read', () => {
    const adapter = readAdapter(golden)
    expect(adapter).toMatchObject({ rank: 4, alpha: 8, useRslora: false, dropout: 0 })
    expect(scaleOf(adapter)).toBe(2)
    expect(adapter.modules.size).toBe(modules)
    expect([...adapter.modules.keys()].at(-1)).toMatch(/^model\.layers\.\d\.self_attn\.v_proj$/)
  })

  test('and it is written with the same tensors and a config that says the same', () => {
    const adapter = readAdapter(golden)
    writeAdapter(dir, adapter)
    expect(readAdapter(dir)).toEqual(adapter)
    const [want, got] = [path.join(golden, 'adapter_model.safetensors'), weightsFile].map(openSafetensors)
    for (const name of got!.tensors.keys()) expect(got!.read(name)).toEqual(want!.read(name))
    const left = [...want!.tensors.keys()].filter((name) => !got!.tensors.has(name))
    expect(left.filter((name) => !name.includes('base_layer'))).toEqual([])
    want!.close()
    got!.close()
    const original = JSON.parse(readFileSync(path.join(golden, 'adapter_config.json'), 'utf8'))
    expect(original).toMatchObject(JSON.parse(readFileSync(configFile, 'utf8')))
  })
})

test('layers are ordered by number', () => {
  const layers = [10, 2, 0].map((layer) => `base_model.model.model.layers.${layer}.mlp.up_proj`)
  make(
    {},
    layers.flatMap((module) => pair(2, module)),
  )
  expect([...readAdapter(dir).modules.keys()]).toEqual([0, 2, 10].map((layer) => `model.layers.${layer}.mlp.up_proj`))
})

test('bf16 and f16 are widened exactly', () => {
  writeFileSync(configFile, JSON.stringify(plainConfig))
  const bits = {
    f16: [0x3c00, 0xc000, 0x0001, 0x03ff, 0x7bff, 0x8000],
    bf16: [0x3f80, 0xc000, 0x0001, 0x7f7f, 0x3eab, 0x8000, 0, 0, 0, 0],
  }
  const [a, b] = pair(2).map((entry, i): TensorEntry => ({ ...entry, dtype: i === 0 ? 'f16' : 'bf16' }))
  writeSafetensors(weightsFile, [a!, b!], (name) => {
    return new Uint8Array(Uint16Array.from(name.includes('lora_A') ? bits.f16 : bits.bf16).buffer)
  })
  const module = readAdapter(dir).modules.get('model.layers.0.self_attn.q_proj')!
  expect([...module.a.data]).toEqual([1, -2, 2 ** -24, 1023 * 2 ** -24, 65504, -0])
  const largest = (2 - 2 ** -7) * 2 ** 127
  expect([...module.b.data]).toEqual([1, -2, 2 ** -133, largest, 0.333984375, -0, 0, 0, 0, 0])
})

test('rsLoRA divides by the square root of the rank', () => {
  make({ use_rslora: true, r: 4, lora_alpha: 8 }, pair(4))
  expect(scaleOf(readAdapter(dir))).toBe(4)
})

test.each([false, true])('ranks and alphas that differ become one, and updates stay (rsLoRA: %j)', (useRslora) => {
  const [q, k, v] = ['q_proj', 'k_proj', 'v_proj'].map((name) => prefix + name) as [string, string, string]
  const patterns = { rank_pattern: { 'self_attn.k_proj': 3, '.*v_proj': 1 }, alpha_pattern: { '^.*k_proj': 5 } }
  make({ use_rslora: useRslora, ...patterns }, [...pair(2, q), ...pair(3, k), ...pair(1, v)])
  const unified = readAdapter(dir)
  expect(unified.rank).toBe(3)
  for (const [module, rank, alpha] of [
    [q, 2, 4],
    [k, 3, 5],
    [v, 1, 4],
  ] as const) {
    make({ use_rslora: useRslora, r: rank, lora_alpha: alpha }, pair(rank, module))
    const alone = readAdapter(dir)
    const name = module.slice('base_model.model.'.length)
    const want = update(alone, alone.modules.get(name)!)
    const got = update(unified, unified.modules.get(name)!)
    // B is rounded once to float32
    want.forEach((value, i) => {
      expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(2 ** -23 * value)
    })
  }
})

test.each<[string, unknown]>([
  ['peft_type', 'LOHA'],
  ['peft_type', undefined],
  ['r', 0],
  ['r', '8'],
  ['lora_alpha', undefined],
  ['bias', 'all'],
  ['bias', 'lora_only'],
  ['fan_in_fan_out', true],
  ['use_dora', true],
  ['modules_to_save', ['lm_head']],
  ['layers_to_transform', [1]],
  ['layers_pattern', 'layers'],
  ['layer_replication', [[0, 1]]],
  ['rank_pattern', { '(': 2 }],
])('%s: %j is refused', (field, value) => {
  make({ [field]: value }, pair(2))
  expectError(() => readAdapter(dir), 'E_ADAPTER', { file: configFile, field })
})

test('an initialisation that changed the base is warned about', () => {
  make({ init_lora_weights: 'pissa' }, pair(2))
  const warn = vi.spyOn(process, 'emitWarning').mockReturnValue()
  onTestFinished(() => warn.mockRestore())
  readAdapter(dir)
  expect(warn).toHaveBeenCalledExactlyOnceWith(expect.stringContaining('pissa'))
})

describe('tensors are refused', () => {
  const [a, b] = pair(2) as [TensorEntry, TensorEntry]
  const named = (name: string): TensorEntry => ({ name, dtype: 'f32', shape: [2, 3] })

  test.each<[string, TensorEntry[], string]>([
    ['whose rank is not the config’s', pair(3), 'model.layers.0.self_attn.q_proj'],
    ['whose ranks disagree', [a, { ...b, shape: [5, 3] }], 'model.layers.0.self_attn.q_proj'],
    ['without their other half', [a], 'model.layers.0.self_attn.q_proj'],
    ['that are no matrix', [{ ...a, shape: [2, 3, 1] }, b], a.name],
    ['of DoRA', [a, b, named(`${prefix}q_proj.lora_magnitude_vector`)], `${prefix}q_proj.lora_magnitude_vector`],
    [
      'of an embedding',
      [named('base_model.model.model.embed_tokens.lora_embedding_A')],
      'base_model.model.model.embed_tokens.lora_embedding_A',
    ],
    ['saved whole', [a, b, named('base_model.model.lm_head.weight')], 'base_model.model.lm_head.weight'],
    ['without PEFT’s prefix', [named('q_proj.lora_A.weight')], 'q_proj.lora_A.weight'],
  ])('%s', (_, entries, tensor) => {
    make({}, entries)
    expectError(() => readAdapter(dir), 'E_ADAPTER', { file: weightsFile, tensor })
  })

  test('of integers', () => {
    make({}, [{ ...a, dtype: 'i32' }, b])
    expectError(() => readAdapter(dir), 'E_ADAPTER', { tensor: a.name, found: 'i32' })
  })

  test.each([[[]], [[named('base_model.model.lm_head.base_layer.weight')]]])(
    'if no module is adapted: %j',
    (entries) => {
      make({}, entries)
      expectError(() => readAdapter(dir), 'E_ADAPTER', { file: weightsFile })
    },
  )
})

test('a pickle is refused', () => {
  make({}, pair(2))
  renameSync(weightsFile, path.join(dir, 'adapter_model.bin'))
  expectError(() => readAdapter(dir), 'E_FILE', { remedy: expect.stringContaining('convert') })
})

test('a folder that exists keeps its other files', () => {
  cpSync(goldenPath('lora', 'adapter'), dir, { recursive: true })
  writeFileSync(path.join(dir, 'notes.txt'), 'mine')
  const adapter = readAdapter(goldenPath('lora', 'adapter-after-3-steps'))
  writeAdapter(dir, adapter, { 'extra.json': '{}' })
  expect(readAdapter(dir)).toEqual(adapter)
  expect(readdirSync(dir).sort()).toEqual([
    'adapter_config.json',
    'adapter_model.safetensors',
    'extra.json',
    'notes.txt',
  ])
  expect(readdirSync(scratch)).toEqual(['adapter'])
})
