import { existsSync, readFileSync } from 'node:fs'
import os from 'node:os'
import { z } from 'zod'
import { nccl } from '../../distributed/nccl.ts'
import type { DeviceError } from '../../errors.ts'
import { formatBytes } from '../../memory/bytes.ts'
import { type Addon, type Attempt, addon, attempts, type Gpu, libc } from '../../native/load.ts'
import { cudaStatus, openDevice } from '../../tensor/device.ts'
import { command } from '../command.ts'
import { table } from '../output.ts'

interface Diagnosis {
  node: string
  nodeApi: string
  platform: string
  libc: string
  processor: string
  /** Those of the instruction sets that the ops have code for. */
  features: string[]
  memory: { total: number; available: number }
  addon: { usable: boolean; attempts: Attempt[]; threads?: number; remedy?: string }
  /** `driver`: the version of NVIDIA's, also where nothing else is. */
  cuda: { usable: boolean; attempts: Attempt[]; driver?: string; gpu?: Gpu & Kernels; nccl?: string }
  /** What `--device auto` takes; `none` without an addon. */
  device: string
}

export const doctor = command({
  name: 'doctor',
  description: 'What this installation can use, and why not the rest',
  options: z.strictObject({}),
  async run() {
    const diagnosis = diagnose()
    if (!diagnosis.addon.usable) process.exitCode = 4
    return diagnosis
  },
  show,
})

function diagnose(): Diagnosis {
  const { loaded, ...remedy } = tryAddon()
  const hasCuda = loaded !== undefined && cudaStatus() === ''
  return {
    node: process.version,
    nodeApi: process.versions.napi ?? 'none',
    platform: `${process.platform}-${process.arch}`,
    libc: libc(),
    processor: os.cpus()[0]?.model ?? 'unknown',
    features: features(),
    memory: {
      total: Math.min(os.totalmem(), process.constrainedMemory() || os.totalmem()),
      available: process.availableMemory(),
    },
    addon: {
      usable: loaded !== undefined,
      attempts: attempts.addon,
      ...remedy,
      ...(loaded && { threads: loaded.threads() }),
    },
    cuda: {
      usable: hasCuda,
      attempts: attempts.cuda,
      ...driverVersion(),
      ...(hasCuda && { gpu: withKernels(loaded.gpu()), nccl: ncclStatus() }),
    },
    device: loaded ? openDevice('auto').kind : 'none',
  }
}

function tryAddon(): { loaded?: Addon; remedy?: string } {
  try {
    return { loaded: addon() }
  } catch (error) {
    const { remedy } = (error as DeviceError).details
    return remedy === undefined ? {} : { remedy }
  }
}

/** Its version, or why several GPUs cannot work together. */
function ncclStatus(): string {
  try {
    return nccl.version(openDevice('cuda'))
  } catch (error) {
    return `${(error as DeviceError).details.found}; only several GPUs need it`
  }
}

/** Which kernels compute what. */
interface Kernels {
  kernels: { products: string; attention: string }
}

/** Hopper has kernels of its own for matrix products and attention; everything else is the same on any GPU from sm_80 on. */
export function kernelsFor({ computeCapability }: Pick<Gpu, 'computeCapability'>): Kernels {
  const general = 'mma.sync'
  if (!computeCapability.startsWith('9.')) return { kernels: { products: general, attention: general } }
  return {
    kernels: {
      products: `wgmma and TMA; ${general} where there are few rows`,
      attention: `wgmma and TMA for heads of 64 and 128; ${general} for others and for short sequences`,
    },
  }
}

const withKernels = (gpu: Gpu): Gpu & Kernels => ({ ...gpu, ...kernelsFor(gpu) })

/** What the kernel module calls itself, also in a container. */
function driverVersion(): { driver?: string } {
  const file = '/sys/module/nvidia/version'
  return existsSync(file) ? { driver: readFileSync(file, 'utf8').trim() } : {}
}

function features(): string[] {
  const flags = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? []
  return ['avx2', 'fma', 'avx512f', 'avx512bw', 'avx512vl', 'avx512dq'].filter((name) => flags.includes(name))
}

const gpuRows = ({
  name,
  computeCapability,
  multiprocessors,
  driver,
  freeBytes,
  totalBytes,
  kernels,
}: Gpu & Kernels): [string, string][] => [
  ['GPU', `${name}, compute capability ${computeCapability}, ${multiprocessors} multiprocessors`],
  ['GPU memory', `${formatBytes(freeBytes)} free of ${formatBytes(totalBytes)}`],
  ['driver runs', `CUDA up to ${driver}`],
  ['products', kernels.products],
  ['attention', kernels.attention],
]

const rows = (label: string, attempts: Attempt[]): [string, string][] =>
  attempts.map(({ file, failure }) => [label, `${file}: ${failure ?? 'loaded'}`])

function show({ addon, cuda, memory, ...host }: Diagnosis): string {
  return table([
    ['Node', `${host.node}, Node-API ${host.nodeApi}`],
    ['platform', `${host.platform}, ${host.libc}`],
    ['processor', `${host.processor} (${host.features.join(' ')})`],
    ['memory', `${formatBytes(memory.available)} available of ${formatBytes(memory.total)}`],
    ...rows('addon', addon.attempts),
    ...(addon.remedy === undefined ? [] : [['remedy', addon.remedy] as const]),
    ['threads', addon.threads === undefined ? 'none without the addon' : `${addon.threads} (LORAM_THREADS sets it)`],
    ['NVIDIA driver', cuda.driver ?? 'none found'],
    ...rows('CUDA', cuda.attempts),
    ...(cuda.gpu ? gpuRows(cuda.gpu) : []),
    ...(cuda.nccl === undefined ? [] : [['NCCL', cuda.nccl] as const]),
    ['device', host.device],
  ])
}
