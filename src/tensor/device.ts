import { ConfigError, DeviceError } from '../errors.ts'
import { onDevice } from '../native/gpuErrors.ts'
import { addon, type Gpu, openCuda } from '../native/load.ts'
import { expectShape } from './dtype.ts'
import { allocate, bytesOn, type Device, type DeviceKind, Tensor } from './tensor.ts'

const layouts = {
  host: { activations: 'f32', rowAlignment: 1 },
  // 128 bytes: 16-byte accesses and the copy engine's tiles always fit.
  gpu: { activations: 'bf16', rowAlignment: 64 },
} as const

/** A device on which every tensor has memory of its own. */
function makeDevice(kind: DeviceKind, layout: keyof typeof layouts): Device {
  const device: Device = {
    kind,
    ...layouts[layout],
    empty: (shape, dtype) => {
      expectShape('empty', shape, dtype)
      const storage = allocate(kind, bytesOn(device, shape, dtype))
      return new Tensor(device, shape, dtype, { storage, byteOffset: 0, owned: true })
    },
  }
  return device
}

/** Host memory. */
export const cpu = makeDevice('cpu', 'host')

const cuda = makeDevice('cuda', 'gpu')

/** Host memory that the GPU copies from and to by itself. */
const pinned = makeDevice('pinned', 'gpu')

/** Shapes without data, of the same bytes as on the CPU. */
export const meta = makeDevice('meta', 'host')

const metaCuda = makeDevice('meta', 'gpu')

/** Shapes without data, of the same bytes as on `device`. */
export const metaOf = ({ rowAlignment }: Device): Device => (rowAlignment === meta.rowAlignment ? meta : metaCuda)

/** Host memory for tensors of `device`, with the same layout. */
export const hostOf = (device: Device): Device => ({ cpu, cuda: pinned, pinned, meta: metaOf(device) })[device.kind]

export const deviceNames = ['auto', 'cpu', 'cuda'] as const
export type DeviceName = (typeof deviceNames)[number]

/** Why the CUDA backend cannot be used here; empty when it can. */
export const cudaStatus = openCuda

/** The GPU and its memory; only where `cudaStatus` has no objection. */
export const gpu = (): Gpu => onDevice(() => addon().gpu())

/** What a user calls a device: "the CPU", or the GPU by its name. */
export const describeDevice = ({ kind }: Device): string => (kind === 'cuda' ? gpu().name : 'the CPU')

/** {@link metaOf} the device a user named; it need not be there. */
export const metaDevice = (name: DeviceName): Device => (name === 'cuda' ? metaCuda : metaOf(openDevice(name)))

/**
 * The device a user named. `auto` takes the GPU when it is usable and the CPU otherwise.
 * @throws {DeviceError} `E_CUDA_NOT_BUILT`: `cuda` was asked for and its library is missing, or has no GPU to run on.
 */
export function openDevice(name: DeviceName): Device {
  switch (name) {
    case 'cpu':
      return cpu
    case 'auto':
      return cudaStatus() === '' ? cuda : cpu
    case 'cuda': {
      const found = cudaStatus()
      if (found === '') return cuda
      throw new DeviceError('E_CUDA_NOT_BUILT', 'the CUDA backend is not usable', {
        found,
        remedy: 'use --device cpu, or do what is said there; loram doctor lists every place that was looked at',
      })
    }
    default:
      throw new ConfigError('E_CONFIG', 'unknown device', {
        field: 'device',
        expected: deviceNames.join(', '),
        found: String(name),
      })
  }
}
