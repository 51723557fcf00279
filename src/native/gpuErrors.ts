import { DeviceError, type LoramError, MemoryError, messageOf } from '../errors.ts'

/** What the addon throws when the GPU fails, or host memory ends: `native/addon/errors.h`. */
interface GpuFailure extends Error {
  code: 'E_CUDA' | 'E_GPU_OOM' | 'E_MEMORY' | 'E_NCCL'
  asked: number
  free: number
}

const codes: unknown[] = ['E_CUDA', 'E_GPU_OOM', 'E_MEMORY', 'E_NCCL'] satisfies GpuFailure['code'][]

const isGpuFailure = (error: unknown): error is GpuFailure =>
  error instanceof Error && 'code' in error && codes.includes(error.code)

/**
 * Runs a call of the addon.
 * @throws {MemoryError} `E_GPU_OOM`: the GPU has not that much memory left. It works on, and so does the process.
 * @throws {MemoryError} `E_MEMORY`: the system has no host memory left.
 * @throws {DeviceError} `E_NCCL`: NCCL failed.
 * @throws {DeviceError} `E_CUDA`: the GPU failed. Where an op read or wrote what it must not, every later call fails too.
 */
export function onDevice<Result>(body: () => Result): Result {
  try {
    return body()
  } catch (error) {
    throw isGpuFailure(error) ? typed(error) : error
  }
}

function typed(error: GpuFailure): LoramError {
  if (error.code === 'E_MEMORY') {
    return new MemoryError('E_MEMORY', 'the system has no memory left', {
      remedy: 'lower microBatchSize or sequenceLength, or free memory',
      cause: error,
    })
  }
  if (error.code === 'E_GPU_OOM') {
    return new MemoryError('E_GPU_OOM', 'the GPU is out of memory', {
      expected: `${error.asked} bytes more`,
      found: `${error.free} bytes free`,
      remedy: 'lower microBatchSize or sequenceLength, recompute more, or quantize to nf4; or free memory on the GPU',
      cause: error,
    })
  }
  if (error.code === 'E_NCCL') {
    return new DeviceError('E_NCCL', 'NCCL failed', {
      found: messageOf(error),
      remedy: 'NCCL_DEBUG=INFO has it say more',
      cause: error,
    })
  }
  return new DeviceError('E_CUDA', 'the GPU failed', {
    found: messageOf(error),
    remedy: 'start the process again; with CUDA_LAUNCH_BLOCKING=1 the op that is named is the one that failed',
    cause: error,
  })
}
