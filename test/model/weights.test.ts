import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { MemoryError } from '../../src/errors.ts'
import { openModelFolder, readModel } from '../../src/model/open.ts'
import { cpu } from '../../src/tensor/device.ts'
import type { Device, Tensor } from '../../src/tensor/tensor.ts'
import { expectError, scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { onEveryDevice } from '../ops/support.ts'
import { loadDirectory } from './support.ts'

const root = scratchFolder()

onEveryDevice('a model that does not fit', (device) => {
  test('leaves nothing where it was read to', () => {
    const made: Tensor[] = []
    const small: Device = {
      ...device,
      empty: (shape, dtype) => {
        if (made.length === 12) throw new MemoryError('E_GPU_OOM', 'full')
        const tensor = device.empty(shape, dtype)
        made.push(tensor)
        return tensor
      },
    }
    expectError(
      () => readModel(openModelFolder(goldenPath('models', 'llama3')), small, { quantize: 'none' }),
      'E_GPU_OOM',
    )
    expect(made).toHaveLength(12)
    for (const tensor of made) expect(() => tensor.read()).toThrow(/was released/)
  })
})

test.each([
  ['NaN', Number.NaN],
  ['infinity', Number.NEGATIVE_INFINITY],
])('%s in a weight is refused, naming tensor and element', (name, value) => {
  const dir = path.join(root, name)
  cpSync(goldenPath('models', 'llama3'), dir, { recursive: true })
  const file = path.join(dir, 'model.safetensors')
  const bytes = readFileSync(file)
  const headerLength = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength))
  const tensor = 'model.layers.1.mlp.up_proj.weight'
  bytes.writeFloatLE(value, 8 + headerLength + header[tensor].data_offsets[0] + 4 * 77)
  writeFileSync(file, bytes)
  expect(() => loadDirectory(dir, cpu)).toThrow(/E_NONFINITE/)
  expect(() => loadDirectory(dir, cpu)).toThrow(
    /model\.layers\.1\.mlp\.up_proj\.weight[\s\S]*1 of \d+, the first at element 77/,
  )
})
