import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { loadModel, merge, trainLoRAM } from 'loram'
import { expect, test } from 'vitest'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import { readAdapter } from '../../src/formats/peft.ts'
import { writeRecords, writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { onEveryDevice } from '../ops/support.ts'

const folder = scratchFolder()

onEveryDevice('LoRAM', ({ kind }) => {
  test.each(['mistral', 'qwen2', 'qwen3'])('prunes, aligns, trains, recovers and generates with %s', async (name) => {
    const device = kind as 'cpu' | 'cuda'
    const at = (part: string) => path.join(folder, `${name}-${kind}-${part}`)
    const model = writeTinyModel(at('model'), ['models', name])
    const data = writeRecords(at('train.jsonl'), 24)
    writeFileSync(at('corpus.txt'), 'The quick brown fox jumps over the lazy dog. '.repeat(20))
    const { adapter } = await trainLoRAM({
      model,
      data: { train: data, sequenceLength: 48 },
      prune: { ratio: 0.5, layers: [1, 2] },
      align: {
        data: at('corpus.txt'),
        steps: 4,
        batchSize: 2,
        microBatchSize: 2,
        sequenceLength: 32,
        learningRate: 1e-2,
      },
      train: { batchSize: 8, learningRate: 1e-2, maxSteps: 30, epochs: 10 },
      output: at('adapter'),
      device,
    })
    const [pruned, aligned] = ['pruned', 'aligned'].map((stage) => openCheckpoint(path.join(adapter, 'run', stage)))
    for (const [tensor, { shape }] of pruned!.tensors) {
      expect(aligned!.tensors.get(tensor)!.shape).toEqual(shape)
      const same = Buffer.compare(aligned!.read(tensor), pruned!.read(tensor)) === 0
      expect(same, tensor).toBe(tensor === (name === 'qwen3' ? 'model.embed_tokens.weight' : 'lm_head.weight'))
    }
    const original = openCheckpoint(model)
    for (const [module, { a, b }] of readAdapter(adapter).modules) {
      expect([b.shape[0], a.shape[1]], module).toEqual(original.tensors.get(`${module}.weight`)!.shape)
    }

    await merge({ model, adapter, output: at('merged') })
    const result = async (options: { adapter?: string }, dir = model) => {
      const large = await loadModel(dir, { ...options, device })
      try {
        const { perplexity } = await large.evaluate({ data, sequenceLength: 48 })
        const { text } = await large.complete('3 and 4', { maxNewTokens: 12 })
        return { perplexity, text }
      } finally {
        await large.close()
      }
    }
    const [before, after, merged] = [await result({}), await result({ adapter }), await result({}, at('merged'))]
    expect(after.perplexity).toBeLessThan(0.8 * before.perplexity)
    expect(after.text).not.toBe(before.text)
    // Merging rounds to bf16
    expect(merged.perplexity / after.perplexity).toBeCloseTo(1, 1)
  })
})
