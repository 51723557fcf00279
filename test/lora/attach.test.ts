import { expect, test } from 'vitest'
import { adapterFrom, addAdapter, attachAdapter, loraDefaults, targetModules } from '../../src/lora/attach.ts'
import { siblings } from '../../src/model/model.ts'
import { goldenPath } from '../golden.ts'
import { forwardLogits, goldenBatch, loadDirectory } from '../model/support.ts'
import { onEveryDevice, readGolden, toArray } from '../ops/support.ts'

onEveryDevice('a new adapter', (device) => {
  const load = () => loadDirectory(goldenPath('models', 'llama3'), device)
  const batch = goldenBatch(readGolden('lora', 'golden.safetensors'))

  test('leaves what the model computes as it is, bit for bit', () => {
    const model = load()
    const before = forwardLogits(model, batch)
    addAdapter(model, { ...loraDefaults, targets: targetModules }, 1)
    expect(forwardLogits(model, batch)).toEqual(before)
  })

  test('has pairs for its targets, A uniform in +-1/sqrt(in) and B zero', () => {
    const model = load()
    const parameters = addAdapter(model, { ...loraDefaults, rank: 16, targets: ['q_proj', 'down_proj', 'lm_head'] }, 1)
    const layer = ['model.layers.0.self_attn.q_proj', 'model.layers.0.mlp.down_proj']
    const layers = [layer, layer.map((name) => name.replace('0', '1')), ['lm_head']]
    const names = layers.flatMap((names) => ['A', 'B'].flatMap((part) => names.map((name) => `${name}.lora_${part}`)))
    expect(Array.from(parameters.byName.keys())).toEqual(names)
    for (const name of layers.flat()) {
      const { value } = parameters.get(`${name}.lora_A`)
      const bound = 1 / Math.sqrt(value.shape[1]!)
      const values = toArray(value)
      expect(values.every((x) => Math.abs(x) <= bound)).toBe(true)
      // A uniform number has the variance bound^2 / 3, and its square has the variance 4/45 bound^4.
      const variance = values.reduce((sum, x) => sum + x * x, 0) / values.length
      expect(Math.abs(variance / bound ** 2 - 1 / 3)).toBeLessThan(4.5 * Math.sqrt(4 / 45 / values.length))
      expect(toArray(parameters.get(`${name}.lora_B`).value).every((x) => x === 0)).toBe(true)
    }
  })

  test('follows from its seed, and differs from module to module', () => {
    const valuesOf = (seed: number) => addAdapter(load(), loraDefaults, seed).values.read()
    expect(valuesOf(1)).toEqual(valuesOf(1))
    expect(valuesOf(2)).not.toEqual(valuesOf(1))
    const parameters = addAdapter(load(), loraDefaults, 1)
    const first = (layer: number) => parameters.get(`model.layers.${layer}.self_attn.q_proj.lora_A`).value.read()
    expect(first(1)).not.toEqual(first(0))
  })

  test('taken out and attached to another copy of the model computes the same bits, A of one input side by side', () => {
    const trained = load()
    const options = { ...loraDefaults, useRslora: true }
    const parameters = addAdapter(trained, options, 1)
    for (const [name, { value }] of parameters.byName) {
      if (name.endsWith('lora_B'))
        value.write(Float32Array.from({ length: value.elements }, (_, i) => Math.sin(i) / 16))
    }
    parameters.round()
    const other = load()
    attachAdapter(other, adapterFrom(parameters, options, 'llama3'))
    for (const layer of [...trained.layers, ...other.layers]) {
      for (const names of siblings) {
        const [first, ...rest] = names.map((name) => layer[name].lora!.a)
        for (const [i, { memory }] of rest.entries()) {
          expect(memory.storage).toBe(first!.memory.storage)
          expect(memory.byteOffset).toBe(first!.memory.byteOffset + (i + 1) * first!.bytes)
        }
      }
    }
    expect(forwardLogits(other, batch)).toEqual(forwardLogits(trained, batch))
  })
})
