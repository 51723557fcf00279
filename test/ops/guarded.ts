import { expect } from 'vitest'
import { bytesOn, type Device, Tensor } from '../../src/tensor/tensor.ts'

const guardBytes = 256
const guard = new Uint8Array(guardBytes).fill(0xa5)

/**
 * The same device for tests of ops: a new tensor holds NaN (all bits set), so that an output which an op does not overwrite
 * fails its comparison, and lies between guard bytes, which `expectIntact` checks.
 */
export function guarded(device: Device): Device & { expectIntact(): void } {
  const blocks: Tensor[] = []
  const self = {
    ...device,
    empty(shape: readonly number[], dtype: Tensor['dtype']): Tensor {
      const bytes = bytesOn(device, shape, dtype)
      const block = device.empty([guardBytes + bytes + guardBytes], 'u8')
      block
        .write(new Uint8Array(block.bytes).fill(0xff))
        .write(guard)
        .write(guard, guardBytes + bytes)
      blocks.push(block)
      return new Tensor(self, shape, dtype, { storage: block.memory.storage, byteOffset: guardBytes })
    },
    expectIntact(): void {
      for (const block of blocks.splice(0)) {
        const bytes = block.read() as Uint8Array
        expect(bytes.slice(0, guardBytes)).toEqual(guard)
        expect(bytes.slice(-guardBytes)).toEqual(guard)
      }
    },
  }
  return self
}
