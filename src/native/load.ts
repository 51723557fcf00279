import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { ConfigError, DeviceError, messageOf } from '../errors.ts'
import { checkNode } from '../nodeVersion.ts'
import { cacheFolder, version } from '../package.ts'
import { ranksOf } from '../ranks.ts'

/**
 * The addon's exports: memory functions, and one function for every op of `native/ops/ops.h`. Ops take their fields, and
 * the others their tensors, from `frame`, where `pass` puts them.
 */
export interface Addon {
  version: string
  threads(): number
  openCuda(file: string, localRank: number): string
  gpu(): Gpu
  synchronize(): void
  frame: Float64Array
  allocate(bytes: number, place: 'cpu' | 'cuda' | 'pinned'): StorageHandle
  upload(byteOffset: number, bytes: Uint8Array): void
  download(byteOffset: number, bytes: Uint8Array): void
  fill(byte: number): void
  transfer(lane: number): void
  awaitTransfers(lane: number): void
  openNccl(file: string): string
  ncclUniqueId(): Uint8Array
  ncclJoin(id: Uint8Array, rank: number, size: number): void
  allReduce(): void
  reduceScatter(): void
  allGather(): void
  settle(): void
  ncclAbort(): void
  ncclLeave(): void
  release(slot: number): void
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

/** Keeps memory of a device, which the addon knows by its slot. */
export interface StorageHandle {
  readonly slot: number
}

/** One place where a library was looked for, and why it was not taken (`undefined`: it was). */
export interface Attempt {
  file: string
  failure?: string
}

const require = createRequire(import.meta.url)
const host = `${process.platform}-${process.arch}`
const addonPackage = `@loram/cpu-${host}`
const cudaPackage = `@loram/cuda-${host}`
const isPrebuilt = host === 'linux-x64'

/** Where `loram build` builds: in this package, or in the other folder where this one is read-only. */
export const buildFolders = [
  fileURLToPath(new URL('../..', import.meta.url)),
  path.join(cacheFolder(), version),
] as const

/** How the repository builds a library: in a clone, which unlike the published package has `src`, npm has none to install. */
const buildInClone: Record<string, string> = {
  'loram.node': 'npm run build:native',
  'loram_cuda.so': 'npm run install:nvcc && npm run build:cuda',
}

const isClone = () => existsSync(path.join(buildFolders[0], 'src'))

/** What was built here is taken before what was installed. */
const candidates = (built: string, installed: string): string[] => [
  ...buildFolders.map((folder) => path.join(folder, 'build/Release', built)),
  installed,
]

/** What `loram doctor` reports: every place looked at, in order. */
export const attempts = { addon: [] as Attempt[], cuda: [] as Attempt[] }

let loaded: Addon | undefined

/**
 * The native addon, opened at first use: one built here, else the one of the platform package.
 * @throws {DeviceError} `E_ADDON`: none of them loads; the message lists what was tried. `E_NODE`: Node is too old.
 * @throws {ConfigError} `E_CONFIG`: an environment variable for it does not fit
 */
export function addon(): Addon {
  loaded ??= load()
  return loaded
}

function load(): Addon {
  checkNode()
  attempts.addon = []
  for (const candidate of candidates('loram.node', addonPackage)) {
    const file = resolved(candidate)
    const opened = file === undefined ? missing(candidate) : open(file)
    const isUsable = typeof opened === 'object'
    attempts.addon.push({ file: file ?? candidate, ...(!isUsable && { failure: opened }) })
    if (isUsable) {
      checkEnvironment()
      return opened
    }
  }
  throw new DeviceError('E_ADDON', 'the native addon cannot be loaded', {
    expected: `an addon of loram ${version}, installed or built here`,
    found: [`Node ${process.version}, ${host}, ${libc()}`, ...attempts.addon.map(describe)].join('; '),
    remedy: addonRemedy(),
  })
}

/** What the environment may say to the addon, and how. */
const environment = {
  LORAM_CPU: { pattern: /^(avx512|avx2|generic)$/, expected: 'avx512, avx2 or generic' },
  LORAM_THREADS: { pattern: /^[1-9]\d*$/, expected: 'a number of threads, from 1 on' },
}

/** @throws {ConfigError} `E_CONFIG`: a variable says what the addon does not know */
function checkEnvironment(): void {
  for (const [field, { pattern, expected }] of Object.entries(environment)) {
    const found = process.env[field]
    if (found === undefined || pattern.test(found)) continue
    throw new ConfigError('E_CONFIG', `the environment variable ${field} does not fit`, { field, expected, found })
  }
}

/** The addon in `file`, or why it cannot be used. */
function open(file: string): Addon | string {
  try {
    const found = require(file) as Addon
    return found.version === version ? found : `built for loram ${found.version}, this is ${version}`
  } catch (error) {
    return messageOf(error).split('\n')[0] ?? ''
  }
}

function addonRemedy(): string {
  if (libc() === 'not glibc') return 'use a system with glibc, such as the container image node:22-bookworm'
  if (isClone()) return `build it for this system with: ${buildInClone['loram.node']}`
  const build = 'build it for this system with: npx loram build'
  const needsNewerSystem = attempts.addon.some(({ failure }) => failure?.includes('not found (required by'))
  return needsNewerSystem || !isPrebuilt ? build : `npm install ${addonPackage}@${version}, or ${build}`
}

let cudaFailure: string | undefined

/** Why the CUDA ops cannot be used; empty when they can. Looked for once, at first use. */
export function openCuda(): string {
  cudaFailure ??= tryCuda(addon())
  return cudaFailure
}

function tryCuda(addon: Addon): string {
  for (const candidate of candidates('loram_cuda.so', cudaPackage)) {
    const file = resolved(candidate)
    const failure = file === undefined ? missing(candidate) : addon.openCuda(file, ranksOf()?.localRank ?? 0)
    attempts.cuda.push({ file: file ?? candidate, ...(failure && { failure }) })
    if (failure === '') return ''
  }
  return attempts.cuda.map(describe).join('; ')
}

function missing(candidate: string): string {
  if (path.isAbsolute(candidate)) {
    const isHere = candidate.startsWith(buildFolders[0])
    return isHere && isClone() ? `not built: ${buildInClone[path.basename(candidate)]}` : 'not built'
  }
  if (!isPrebuilt) return 'there is no such package'
  if (isClone()) return 'not installed'
  const install = `not installed: npm install ${candidate}@${version}`
  return candidate === cudaPackage ? `${install}, or npx loram build --cuda --install-nvcc ./nvcc` : install
}

/** The file that `require` would load; `undefined` where there is none. */
function resolved(candidate: string): string | undefined {
  try {
    return require.resolve(candidate)
  } catch {
    return undefined
  }
}

const describe = ({ file, failure }: Attempt): string => `${file}: ${failure}`

/** The C library that Node runs on. */
export function libc(): string {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
  return header.glibcVersionRuntime ? `glibc ${header.glibcVersionRuntime}` : 'not glibc'
}
