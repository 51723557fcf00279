import { existsSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import { readAdapter } from '../../src/formats/peft.ts'
import type { AdapterModule } from '../../src/lora/adapter.ts'
import { mergeWeight, writeMerged } from '../../src/lora/merge.ts'
import { readTensor } from '../../src/model/weights.ts'
import { cpu } from '../../src/tensor/device.ts'
import { expectError, scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectLogits, goldenBatch, loadDirectory } from '../model/support.ts'
import { expectWithin, fromBf16, generator, onEveryDevice, readGolden, toBf16, unitRoundoff } from '../ops/support.ts'

const golden = readGolden('lora', 'golden.safetensors')
const adapter = readAdapter(goldenPath('lora', 'adapter'))
const base = openCheckpoint(goldenPath('models', 'llama3'))
const scratch = scratchFolder()
const dir = path.join(scratch, 'merged')
writeMerged(base, adapter, dir)
const merged = openCheckpoint(dir)

test.each(['model.layers.0.self_attn.q_proj.weight', 'model.layers.1.mlp.down_proj.weight'])(
  '%s is what PEFT merges',
  (name) => {
    // Rank 4: a sum of five fp32 products and numbers, each rounded once, all of them below the largest weight times two
    const want = golden(`merged.${name}`).data
    const scale = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
    expectWithin(readTensor(merged, name, cpu), want, () => 10 * unitRoundoff.f32 * scale)
  },
)

test('weights without a pair keep their bytes', () => {
  for (const name of ['model.embed_tokens.weight', 'model.norm.weight', 'lm_head.weight']) {
    expect(Buffer.compare(merged.read(name), base.read(name)), name).toBe(0)
  }
  expect(Array.from(merged.tensors)).toEqual(Array.from(base.tensors))
})

onEveryDevice('the merged model', (device) => {
  test('computes the golden logits', () => {
    expectLogits(loadDirectory(dir, device), goldenBatch(golden), golden('logits_merged').data)
  })
})

test('bf16 weights are rounded once, after the addition', () => {
  const next = generator(3)
  const count = 1000
  // 8 bits around 1 and 12 bits below 2^-4 add up exactly in fp32.
  const weights = fromBf16(toBf16(Array.from({ length: count }, () => 1 + (next() + 1) / 2)))
  const updates = Float32Array.from({ length: count }, () => Math.round(next() * 4096) / 65536)
  const weight = cpu.empty([count, 1], 'bf16').write(toBf16(weights))
  const pair: AdapterModule = {
    a: { shape: [1, 1], data: Float32Array.of(1) },
    b: { shape: [count, 1], data: updates },
  }
  const got = mergeWeight(weight, pair, 2).read()
  expect(got).toEqual(toBf16(weights.map((w, i) => w + 2 * updates[i]!)))
  // Rounding the update first would give other bits.
  const roundedUpdates = fromBf16(toBf16(updates))
  expect(got).not.toEqual(toBf16(weights.map((w, i) => w + 2 * roundedUpdates[i]!)))
})

test('an adapted head of tied embeddings is refused, and nothing is written', () => {
  const tied = openCheckpoint(goldenPath('models', 'llama3-tied'))
  const head: AdapterModule = {
    a: { shape: [4, 64], data: new Float32Array(4 * 64) },
    b: { shape: [160, 4], data: new Float32Array(160 * 4) },
  }
  const target = path.join(scratch, 'tied')
  const modules = new Map([['lm_head', head]])
  expectError(() => writeMerged(tied, { ...adapter, modules }, target), 'E_ADAPTER', { file: tied.dir })
  expect(existsSync(target)).toBe(false)
})

test('an adapter of another model is refused, and nothing is written', () => {
  const target = path.join(scratch, 'foreign')
  const pruned = readAdapter(goldenPath('loram', 'adapter-pruned'))
  const large = openCheckpoint(goldenPath('loram', 'large'))
  expectError(() => writeMerged(large, pruned, target), 'E_ADAPTER_BASE', {
    tensor: expect.stringContaining('model.layers.1.'),
    remedy: expect.stringContaining('loram recover'),
  })
  expect(existsSync(target)).toBe(false)
})
