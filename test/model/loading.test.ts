import { cpSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.ts'
import { heldBytes } from '../../src/model/model.ts'
import { openModelFolder, readModel } from '../../src/model/open.ts'
import { cast } from '../../src/native/cast.ts'
import { nf4Sizes } from '../../src/native/nf4.ts'
import { cpu } from '../../src/tensor/device.ts'
import { bytesOn, type Device, Tensor, tensorFrom } from '../../src/tensor/tensor.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { onEveryDevice } from '../ops/support.ts'

const scratch = scratchFolder()

/** A golden model in `dtype`. */
function modelIn(dtype: 'f32' | 'bf16' | 'f16', ...golden: string[]): string {
  const dir = path.join(scratch, [...golden, dtype].join('-'))
  cpSync(goldenPath(...golden), dir, { recursive: true })
  const file = path.join(dir, 'model.safetensors')
  const source = openSafetensors(file)
  const entries = Array.from(source.tensors, ([name, { shape }]) => ({ name, dtype, shape }))
  writeSafetensors(file, entries, (name) => {
    const values = tensorFrom(cpu, new Float32Array(source.read(name).buffer), source.tensors.get(name)!.shape)
    return new Uint8Array(cast(values, dtype).read().buffer)
  })
  return dir
}

/** The same device, which counts the bytes of its tensors that were not given back: now, and the most there were. */
function counting(device: Device) {
  const self = {
    ...device,
    bytes: 0,
    peak: 0,
    empty(shape: readonly number[], dtype: Tensor['dtype']): Tensor {
      const tensor = new Tensor(self, shape, dtype, device.empty(shape, dtype).memory)
      self.bytes += tensor.bytes
      self.peak = Math.max(self.peak, self.bytes)
      const dispose = () => {
        self.bytes -= tensor.bytes
        Tensor.prototype.dispose.call(tensor)
      }
      return Object.assign(tensor, { dispose })
    },
  }
  return self
}

onEveryDevice('loading', (plain) => {
  describe.each([
    ['f32', ['models', 'llama3']],
    ['bf16', ['models', 'llama3']],
    ['f16', ['models', 'llama3']],
    ['f16', ['models', 'llama3-tied']],
  ] as const)('from %s, %j', (dtype, golden) => {
    const source = openModelFolder(modelIn(dtype, ...golden))

    test.each([{ quantize: 'none' }, { quantize: 'nf4' }, { quantize: 'nf4', quantizeTables: true }] as const)(
      '%j takes what is held and one matrix as it is stored',
      (holding) => {
        const device = counting(plain)
        const { model, loading } = readModel(source, device, holding)
        expect(loading.bytes).toBe(heldBytes(model))
        expect(device.bytes).toBe(loading.bytes + model.constants.inverseFrequencies.bytes)
        // and while absmax is double quantised, it in f32
        const most = Array.from(
          source.checkpoint.tensors.values(),
          ({ shape, dtype }) => bytesOn(device, shape, dtype) + 4 * nf4Sizes(shape).blocks,
        )
        expect(device.peak - device.bytes).toBeLessThanOrEqual(Math.max(...most))
      },
    )
  })
})
