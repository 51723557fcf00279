import { ConfigError, DeviceError } from '../errors.ts'
import { addon, cudaLibraryFile } from '../native/load.ts'
import { bytesPerElement, elements } from './dtype.ts'
import { type Device, Tensor } from './tensor.ts'

/** Host memory; every tensor has its own. */
export const cpu: Device = {
  kind: 'cpu',
  empty: (shape, dtype) => {
    const storage = addon().allocate(elements(shape) * bytesPerElement[dtype])
    return new Tensor(cpu, shape, dtype, { storage, byteOffset: 0 })
  },
}

/** Shapes without data. */
export const meta: Device = {
  kind: 'meta',
  empty: (shape, dtype) => new Tensor(meta, shape, dtype, { storage: undefined, byteOffset: 0 }),
}

export const deviceNames = ['auto', 'cpu', 'cuda'] as const
export type DeviceName = (typeof deviceNames)[number]

/** Why the CUDA backend cannot be used here; empty when it can. */
export const cudaStatus = (): string => addon().cudaStatus(cudaLibraryFile)

/**
 * The device a user named. `auto` takes the GPU when it is usable and the CPU otherwise.
 * @throws {DeviceError} `E_CUDA_NOT_BUILT`: `cuda` was asked for and this package has no CUDA backend.
 */
export function openDevice(name: DeviceName): Device {
  switch (name) {
    case 'cpu':
    case 'auto':
      return cpu
    case 'cuda':
      throw new DeviceError('E_CUDA_NOT_BUILT', 'the CUDA backend is not usable', {
        found: cudaStatus(),
        remedy: 'use --device cpu; this version of loram runs on the CPU only',
      })
    default:
      throw new ConfigError('E_CONFIG', 'unknown device', {
        field: 'device',
        expected: deviceNames.join(', '),
        found: String(name),
      })
  }
}
