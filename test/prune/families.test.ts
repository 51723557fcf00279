import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import type { PruningPlan } from '../../src/formats/pruningJson.ts'
import { loraDefaults } from '../../src/lora/attach.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { keptIndices } from '../../src/prune/plan.ts'
import { pruneModel } from '../../src/prune/prune.ts'
import { cpu } from '../../src/tensor/device.ts'
import type { Tensor } from '../../src/tensor/tensor.ts'
import { Rotation } from '../../src/train/rotation.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectGolden, forwardLogits, goldenBatch, loadDirectory, testArena } from '../model/support.ts'
import { fromBf16, readGolden, toArray, toBf16 } from '../ops/support.ts'

describe.each(['mistral', 'qwen2', 'qwen3'])('%s, pruned', (name) => {
  const source = goldenPath('models', name)
  const dir = path.join(scratchFolder(), 'pruned')

  test('computes what the large model does without the outputs of what was cut', async () => {
    const options = { method: 'random', ratio: 0.5, layers: [0, 2] as [number, number], seed: 1 } as const
    const noText = () => expect.unreachable()
    const plan = await pruneModel(openModelFolder(source), noText, options, cpu, dir, neverAborted)

    const large = loadDirectory(source, cpu)
    for (const kept of plan.kept) {
      for (const projection of ['o', 'down'] as const) {
        const weight = large.layers[kept.layer]![projection].weight as Tensor
        zeroOtherColumns(weight, keptIndices(projection, kept, plan.source).indices)
      }
    }
    const batch = goldenBatch(readGolden('models', name, 'golden.safetensors'), 'right.')
    expectGolden(forwardLogits(loadDirectory(dir, cpu), batch), forwardLogits(large, batch))
  })

  test('is what a rotating slice is whose core is all of it', () => {
    const model = loadDirectory(dir, cpu)
    const batch = goldenBatch(readGolden('models', name, 'golden.safetensors'), 'right.')
    const want = forwardLogits(model, batch)
    const plan = openCheckpoint(dir).pruning!
    const options = { every: 1, rescale: false, hold: 'streamed', seed: 0, arena: testArena(cpu) } as const
    const rotation = new Rotation(model, openModelFolder(source), { ...plan, core: plan.kept }, loraDefaults, options)
    for (const { q } of model.layers) q.bias?.values.zero()
    rotation.before(3)
    expectGolden(forwardLogits(model, batch), want)
  })

  test('has the biases of the kept heads, and the norms of heads as they were', () => {
    const [large, small] = [openCheckpoint(source), openCheckpoint(dir)]
    const plan: PruningPlan = small.pruning!
    const biases = Array.from(small.tensors.keys()).filter((tensor) => tensor.endsWith('.bias'))
    expect(biases).toHaveLength(name === 'qwen2' ? 6 : 0)
    for (const bias of biases) {
      const [, layer, projection] = /layers\.(\d)\.self_attn\.([qkv])_proj/.exec(bias)!
      const { indices } = keptIndices(projection as 'q', plan.kept[Number(layer)]!, plan.source)
      const values = fromBf16(new Uint16Array(Uint8Array.from(large.read(bias)).buffer))
      const want = toBf16(Array.from(indices, (i) => values[i]!))
      expect(Buffer.compare(small.read(bias), new Uint8Array(want.buffer)), bias).toBe(0)
    }
    const headNorms = Array.from(small.tensors.keys()).filter((tensor) => /[qk]_norm/.test(tensor))
    expect(headNorms).toHaveLength(name === 'qwen3' ? 4 : 0)
    for (const norm of headNorms) expect(Buffer.compare(small.read(norm), large.read(norm)), norm).toBe(0)
  })
})

function zeroOtherColumns(weight: Tensor, kept: Int32Array): void {
  const columns = weight.shape[1]!
  const values = toArray(weight).map((value, i) => (kept.includes(i % columns) ? value : 0))
  weight.write(weight.dtype === 'bf16' ? toBf16(values) : Float32Array.from(values))
}
