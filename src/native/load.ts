import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { DeviceError, messageOf } from '../errors.ts'

/** The addon's exports: memory functions, and one function for every op of `native/ops/ops.h`. */
export interface Addon {
  version: string
  threads(): number
  openCuda(file: string): string
  gpu(): Gpu
  synchronize(): void
  allocate(bytes: number, place: 'cpu' | 'cuda' | 'pinned'): StorageHandle
  view(storage: StorageHandle, byteOffset: number, dtype: number, pitch: number, ...shape: number[]): TensorHandle
  upload(tensor: TensorHandle, byteOffset: number, bytes: Uint8Array): void
  download(tensor: TensorHandle, byteOffset: number, bytes: Uint8Array): void
  fill(tensor: TensorHandle, byte: number): void
  transfer(source: TensorHandle, target: TensorHandle): void
  awaitTransfers(): void
  release(storage: StorageHandle): void
  [op: string]: unknown
}

/**
 * The GPU that ops run on. `allocatedBytes` are what tensors hold of it, `peakBytes` the most that they did, and
 * `scratchPeakBytes` the most that ops took beside them for partial results.
 */
export interface Gpu {
  name: string
  computeCapability: string
  multiprocessors: number
  /** Newest CUDA version that the driver runs. */
  driver: string
  freeBytes: number
  totalBytes: number
  allocatedBytes: number
  peakBytes: number
  scratchPeakBytes: number
}

export type StorageHandle = { readonly native: 'storage' }
export type TensorHandle = { readonly native: 'tensor' }

/** One place the addon was looked for, and why it was not taken (`undefined`: it was). */
export interface Attempt {
  file: string
  failure?: string
}

const require = createRequire(import.meta.url)
const packageRoot = fileURLToPath(new URL('../..', import.meta.url))
const platformPackage = `@loram/cpu-${process.platform}-${process.arch}`

/** What `loram doctor` reports: every place looked at, in order. */
export const attempts: Attempt[] = []

let loaded: Addon | undefined

/**
 * The native addon, opened at first use: the one built in this package, else the one of the platform package.
 * @throws {DeviceError} `E_ADDON`: none of them loads; the message lists what was tried.
 */
export function addon(): Addon {
  loaded ??= load()
  return loaded
}

function load(): Addon {
  const { version } = require('../../package.json') as { version: string }
  const candidates = [path.join(packageRoot, 'build/Release/loram.node'), platformPackage]
  for (const file of candidates) {
    const attempt: Attempt = { file }
    attempts.push(attempt)
    try {
      const found = require(file) as Addon
      if (found.version === version) return found
      attempt.failure = `built for loram ${found.version}, this is ${version}`
    } catch (error) {
      attempt.failure = messageOf(error).split('\n')[0] ?? ''
    }
  }
  throw new DeviceError('E_ADDON', 'the native addon cannot be loaded', {
    expected: `${platformPackage} for Node-API 8 (this is Node ${process.version}, Node-API ${process.versions.napi})`,
    found: attempts.map(({ file, failure }) => `${file}: ${failure}`).join('; '),
    remedy: `install ${platformPackage}@${version}, or build it in a clone of the repository with: npm run build:native`,
  })
}

/** Where the CUDA ops would be opened from: beside the locally built addon. */
export const cudaLibraryFile = path.join(packageRoot, 'build/Release/loram_cuda.so')
