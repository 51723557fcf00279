import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { plan } from 'loram'
import { beforeEach, describe, expect, test } from 'vitest'
import { quantizedByConfig } from '../../src/formats/bitsandbytes.ts'
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts'
import type { Adapter, Matrix } from '../../src/lora/adapter.ts'
import { logitDifference } from '../../src/lora/difference.ts'
import { mergeInFloat32, writeMerged } from '../../src/lora/merge.ts'
import { modelBytes } from '../../src/memory/planner.ts'
import type { Model } from '../../src/model/model.ts'
import { openModelFolder, readModel } from '../../src/model/open.ts'
import { dequantizeNf4, type Nf4Weight, quantizeNf4 } from '../../src/native/nf4.ts'
import { pruneModel } from '../../src/prune/prune.ts'
import { cpu } from '../../src/tensor/device.ts'
import { bytesPerElement, type DType } from '../../src/tensor/dtype.ts'
import type { Tensor } from '../../src/tensor/tensor.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { goldenPath } from '../golden.ts'
import { expectLogits, forwardLogits, goldenBatch } from '../model/support.ts'
import { generator, onEveryDevice, readGolden } from '../ops/support.ts'
import { expectError, scratchFolder } from './scratch.ts'

const original = goldenPath('nf4', 'checkpoint')
const golden = readGolden('nf4', 'checkpoint', 'golden.safetensors')
const parts = readGolden('nf4', 'checkpoint', 'model.safetensors')
const dir = path.join(scratchFolder(), 'model')
const weight = 'model.layers.1.mlp.down_proj.weight'
const stateName = `${weight}.quant_state.bitsandbytes__nf4`

beforeEach(() => {
  rmSync(dir, { recursive: true, force: true })
  cpSync(original, dir, { recursive: true })
})

interface Raw {
  dtype: DType
  shape: number[]
  bytes: Uint8Array
}

/** Rewrites the weights in `dir`. */
function rewrite(change: (tensors: Map<string, Raw>) => void): void {
  const file = path.join(dir, 'model.safetensors')
  const source = openSafetensors(file)
  const tensors = new Map(
    Array.from(source.tensors, ([name, { dtype, shape }]) => [name, { dtype, shape, bytes: source.read(name) }]),
  )
  source.close()
  change(tensors)
  const entries = Array.from(tensors, ([name, { dtype, shape }]) => ({ name, dtype, shape }))
  writeSafetensors(file, entries, (name) => tensors.get(name)!.bytes)
}

const raw = (bytes: Uint8Array, dtype: DType = 'u8'): Raw => ({
  dtype,
  shape: [bytes.length / bytesPerElement[dtype]],
  bytes,
})
const floats = (...values: number[]): Raw => raw(new Uint8Array(Float32Array.from(values).buffer), 'f32')

const stateOf = ({ bytes }: Raw) => JSON.parse(Buffer.from(bytes).toString())
const editState =
  (over: object, name = stateName) =>
  (tensors: Map<string, Raw>) => {
    tensors.set(name, raw(Buffer.from(JSON.stringify({ ...stateOf(tensors.get(name)!), ...over }))))
  }

function editConfig(change: (json: Record<string, unknown>) => void): void {
  const file = path.join(dir, 'config.json')
  const json = JSON.parse(readFileSync(file, 'utf8'))
  change(json)
  writeFileSync(file, JSON.stringify(json))
}

/** The same weights without double quantisation. */
function singleQuantized(tensors: Map<string, Raw>): void {
  for (const name of [...tensors.keys()].filter((name) => name.endsWith('.nested_absmax'))) {
    const base = name.replace(/\.nested_absmax$/, '')
    const state = `${base}.quant_state.bitsandbytes__nf4`
    const { nested_offset: offset, nested_dtype, nested_blocksize, ...rest } = stateOf(tensors.get(state)!)
    const [codes, scales, levels] = [`${base}.absmax`, name, `${base}.nested_quant_map`].map((part) => parts(part))
    const absmax = Array.from(codes!.bytes, (code, i) =>
      Math.fround(Math.fround(levels!.data[code]! * scales!.data[i >> 8]!) + Math.fround(offset)),
    )
    tensors.set(`${base}.absmax`, floats(...absmax))
    tensors.set(state, raw(Buffer.from(JSON.stringify(rest))))
    tensors.delete(name)
    tensors.delete(`${base}.nested_quant_map`)
  }
}

const load = (device = cpu, from = dir): Model => readModel(openModelFolder(from), device, { quantize: 'none' }).model
const downProj = (model: Model) => model.layers[1]!.down.weight as Nf4Weight

onEveryDevice('a checkpoint that bitsandbytes quantised', (device) => {
  test.each(['none', 'nf4'] as const)('is used byte for byte, with quantize %s', (quantize) => {
    const source = openModelFolder(dir)
    expect(source.warnings).toEqual([])
    const { model } = readModel(source, device, { quantize })
    const { shape, packed, absmax, nestedAbsmax } = downProj(model)
    expect(shape).toEqual([64, 192])
    expect(packed.read()).toEqual(parts(weight).bytes)
    expect(absmax.read()).toEqual(parts(`${weight}.absmax`).bytes)
    expect(nestedAbsmax!.read()).toEqual(parts(`${weight}.nested_absmax`).data)
    expectLogits(model, goldenBatch(golden), golden('logits_f32').data)
  })

  test('with its codes stored under another dtype, and absmax not double quantised, computes the same', () => {
    const before = forwardLogits(load(device), goldenBatch(golden))
    rewrite((tensors) => {
      singleQuantized(tensors)
      const { bytes } = tensors.get(weight)!
      tensors.set(weight, { dtype: 'bf16', shape: [bytes.length / 2, 1], bytes })
    })
    const model = load(device)
    expect(downProj(model).nestedAbsmax).toBeUndefined()
    expect(forwardLogits(model, goldenBatch(golden))).toEqual(before)
  })

  test('takes the bytes that plan says', () => {
    const planned = () => plan({ model: dir, device: device.kind === 'cuda' ? 'cuda' : 'cpu' })
    expect(planned().training.bytes).toMatchObject(modelBytes(load(device)))
    rewrite(singleQuantized)
    editConfig((json) => Object.assign(json.quantization_config as object, { bnb_4bit_use_double_quant: false }))
    expect(planned().training.bytes).toMatchObject(modelBytes(load(device)))
    expect(planned().original.bytes).toMatchObject(modelBytes(load(device)))
  })
})

test('the modules that config.json leaves out are not counted as quantised', () => {
  const names = ['model.layers.0.mlp.up_proj', 'model.layers.11.mlp.up_proj', 'model.layers.1.mlp.up_proj', 'lm_head']
  const quantized = (skip: string[] | null) => {
    const quantization_config = { ...golden4bit, llm_int8_skip_modules: skip }
    const found = quantizedByConfig(
      { quantization_config },
      'config.json',
      [...names, 'model.embed_tokens', 'model.norm'].map((name) => `${name}.weight`),
    )
    return names.filter((name) => found.has(`${name}.weight`))
  }
  expect(quantized(null)).toEqual(names.slice(0, 3))
  expect(quantized(['model.layers.1', 'lm_head'])).toEqual(names.slice(0, 2))
  expect(quantized([])).toEqual(names)
  expect(quantized(['up_proj'])).toEqual(['lm_head'])
})

const golden4bit = JSON.parse(readFileSync(path.join(original, 'config.json'), 'utf8')).quantization_config

test('pruning makes a plain model of it', async () => {
  const output = path.join(dir, 'pruned')
  const options = { method: 'structured', criterion: 'magnitude', grouping: 'aligned', ratio: 0.5 } as const
  const calibration = { samples: 1, sequenceLength: 8 }
  const given = { ...options, layers: [1, 2] as [number, number], calibration, seed: 1 }
  const source = openModelFolder(dir)
  await pruneModel(source, () => expect.unreachable(), given, cpu, output, neverAborted)
  const { checkpoint, config } = openModelFolder(output)
  expect(checkpoint.configJson).toEqual(source.checkpoint.configJson)
  expect(config.nf4!.size).toBe(0)
  expect(checkpoint.tensors.get(weight)).toMatchObject({ dtype: 'bf16', shape: [64, 96] })
  const plain = load(cpu, output)
  const whole = (model: Model) => model.layers[0]!.up.weight
  expect((whole(plain) as Tensor).read()).toEqual(dequantizeNf4(whole(load()) as Nf4Weight, 'bf16').read())
})

describe('merging an adapter into it', () => {
  const next = generator(5)
  const matrix = (rows: number, columns: number, size: number): Matrix => ({
    shape: [rows, columns],
    data: Float32Array.from({ length: rows * columns }, () => size * next()),
  })
  /** An adapter of `weight` alone. */
  const adapterOf = (size: number): Adapter => {
    const modules = new Map([[weight.replace('.weight', ''), { a: matrix(2, 192, size), b: matrix(64, 2, size) }]])
    return { rank: 2, alpha: 4, useRslora: false, dropout: 0, modules }
  }
  const mergeTo = (output: string, adapter: Adapter, force: boolean): void => {
    const { checkpoint } = openModelFolder(dir)
    writeMerged(checkpoint, adapter, output, { force })
    checkpoint.close()
  }
  const output = `${dir} merged`
  beforeEach(() => rmSync(output, { recursive: true, force: true }))

  test('is refused', () => {
    expectError(() => mergeTo(output, adapterOf(1), false), 'E_MODEL', {
      found: expect.stringContaining('NF4'),
      remedy: expect.stringContaining('unmerged'),
    })
    expect(existsSync(output)).toBe(false)
  })

  test.each(['double', 'single'])('where it is forced, quantises that weight again, scales %s', (scales) => {
    if (scales === 'single') rewrite(singleQuantized)
    const adapter = adapterOf(0.5)
    mergeTo(output, adapter, true)
    expect(openModelFolder(output).warnings).toEqual([])
    expect(readFileSync(path.join(output, 'config.json'))).toEqual(readFileSync(path.join(dir, 'config.json')))
    const [before, after] = [load(), load(cpu, output)]
    const update = adapter.modules.get(weight.replace('.weight', ''))!
    const sum = mergeInFloat32(dequantizeNf4(downProj(before), 'f32'), update, 2)
    const want = quantizeNf4(sum, { doubleQuantize: scales === 'double' })
    expect(dequantizeNf4(downProj(after), 'f32').read()).toEqual(dequantizeNf4(want, 'f32').read())
    const untouched = (model: Model) => (model.layers[1]!.up.weight as Nf4Weight).packed.read()
    expect(untouched(after)).toEqual(untouched(before))
  })

  // A level of NF4 is some tenth of its block's largest value wide: an update of thousandths of it is rounded away
  test.each([
    [0.5, 0.02, 0.5],
    [0.01, 0.9, 1.1],
  ])('of size %d, the measured loss is between %d and %d of what the adapter does', (size, least, most) => {
    const adapter = adapterOf(size)
    mergeTo(output, adapter, true)
    const { mean, largest, adapter: effect } = logitDifference(dir, adapter, output)
    expect(effect).toBeGreaterThan(0)
    expect(mean / effect).toBeGreaterThan(least)
    expect(mean / effect).toBeLessThan(most)
    expect(largest).toBeGreaterThan(mean)
  })
})

describe('refuses', () => {
  test.each<[string, object, string, string]>([
    ['8 bits', { load_in_4bit: false, load_in_8bit: true }, 'quantization_config.load_in_4bit', 'false'],
    ['another method', { quant_method: 'gptq' }, 'quantization_config.quant_method', '"gptq"'],
    ['fp4', { bnb_4bit_quant_type: 'fp4' }, 'quantization_config.bnb_4bit_quant_type', '"fp4"'],
  ])('%s in config.json', (_name, over, field, found) => {
    editConfig((json) => Object.assign(json.quantization_config as object, over))
    const details = { file: path.join(dir, 'config.json'), field, found, remedy: expect.stringContaining('original') }
    expectError(load, 'E_MODEL', details)
  })

  test.each<[string, object, string, string]>([
    ['fp4', { quant_type: 'fp4' }, 'quant_type', '"fp4"'],
    ['other blocks', { blocksize: 128 }, 'blocksize', '128'],
    ['other nested blocks', { nested_blocksize: 128 }, 'nested_blocksize', '128'],
    ['a key that it does not know', { packing: 1 }, '', expect.stringContaining('packing')],
  ])('%s in a quant_state', (_name, over, key, found) => {
    rewrite(editState(over))
    expectError(load, 'E_MODEL', { tensor: stateName, field: `quant_state${key && `.${key}`}`, found })
  })

  test('a quant_state that is no JSON, of another name, or there twice', () => {
    rewrite((tensors) => tensors.set(stateName, raw(Buffer.from('{"nested_offset": NaN}'))))
    expectError(load, 'E_MODEL', { tensor: stateName, field: 'quant_state' })
    const fp4 = stateName.replace('nf4', 'fp4')
    rewrite((tensors) => tensors.set(fp4, tensors.get(stateName)!))
    expectError(load, 'E_SHAPE', { tensor: weight, found: expect.stringContaining('fp4') })
    rewrite((tensors) => tensors.delete(stateName))
    expectError(load, 'E_MODEL', { tensor: weight, found: '"quant_state.bitsandbytes__fp4"' })
  })

  test.each(['absmax', 'quant_map', 'nested_absmax', 'nested_quant_map'])('a missing %s', (part) => {
    rewrite((tensors) => tensors.delete(`${weight}.${part}`))
    expectError(load, 'E_SHAPE', { tensor: `${weight}.${part}`, found: 'nothing' })
  })

  test.each(['', '.absmax', '.nested_absmax'])('codes or scales that are too few: %s', (part) => {
    rewrite((tensors) => {
      const { dtype, bytes } = tensors.get(`${weight}${part}`)!
      tensors.set(`${weight}${part}`, raw(bytes.slice(0, -bytesPerElement[dtype]), dtype))
    })
    expectError(load, 'E_SHAPE', { tensor: `${weight}${part}` })
  })

  test('absmax in 8 bits with nothing that restores it', () => {
    rewrite((tensors) => {
      const { nested_offset, nested_dtype, nested_blocksize, ...rest } = stateOf(tensors.get(stateName)!)
      tensors.set(stateName, raw(Buffer.from(JSON.stringify(rest))))
    })
    expectError(load, 'E_SHAPE', { tensor: `${weight}.absmax` })
  })

  test.each(['quant_map', 'nested_quant_map'])('other levels in %s', (map) => {
    rewrite((tensors) => {
      const values = Array.from(parts(`${weight}.${map}`).data)
      tensors.set(`${weight}.${map}`, floats(...values.with(3, 0.5)))
    })
    expectError(load, 'E_MODEL', { tensor: `${weight}.${map}`, found: '0.5' })
  })

  test('a shape other than that of config.json', () => {
    rewrite(editState({ shape: [192, 64] }))
    expectError(load, 'E_SHAPE', { found: `${weight} is [192, 64], not [64, 192]` })
  })

  test('a weight without any of its parts', () => {
    rewrite((tensors) => {
      for (const name of [...tensors.keys()]) if (name.startsWith(`${weight}.`)) tensors.delete(name)
    })
    expectError(load, 'E_SHAPE', { found: `${weight} is [6144, 1], not [64, 192]` })
  })

  test('NaN in a scale', () => {
    rewrite((tensors) => tensors.set(`${weight}.nested_absmax`, floats(Number.NaN)))
    expectError(load, 'E_NONFINITE', { tensor: `${weight}.nested_absmax` })
  })
})
