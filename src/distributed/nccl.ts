import { ConfigError, DeviceError, messageOf } from '../errors.ts'
import { pass } from '../native/frame.ts'
import { onDevice } from '../native/gpuErrors.ts'
import { addon } from '../native/load.ts'
import type { Device } from '../tensor/tensor.ts'
import type { Transport, TransportKind } from './transport.ts'

/** The library by the name under which systems install it, or the file that LORAM_NCCL names. */
const library = () => process.env.LORAM_NCCL ?? 'libnccl.so.2'

/** NVIDIA's library, between GPUs of one machine or of several. */
export const nccl: TransportKind = {
  version(device) {
    requireGpu(device)
    try {
      return `NCCL ${addon().openNccl(library())}`
    } catch (cause) {
      throw new DeviceError('E_NCCL', 'NCCL is not usable', {
        file: library(),
        found: messageOf(cause),
        remedy: 'install libnccl2 or the Python package nvidia-nccl-cu13, and name its libnccl.so.2 in LORAM_NCCL',
        cause,
      })
    }
  },
  createId: async () => Buffer.from(onDevice(() => addon().ncclUniqueId())).toString('base64'),
  async open({ rank, size }, id) {
    onDevice(() => addon().ncclJoin(Buffer.from(id, 'base64'), rank, size))
    return collectives
  },
}

const collectives: Transport = {
  allReduce(x) {
    pass(x)
    onDevice(() => addon().allReduce())
  },
  reduceScatter(whole, part) {
    pass(whole, part)
    onDevice(() => addon().reduceScatter())
  },
  allGather(part, whole) {
    pass(part, whole)
    onDevice(() => addon().allGather())
  },
  settle: () => onDevice(() => addon().settle()),
  close(failed) {
    if (failed) addon().ncclAbort()
    addon().ncclLeave()
  },
}

function requireGpu({ kind }: Device): void {
  if (kind === 'cuda') return
  throw new ConfigError('E_CONFIG', 'several processes need a GPU each', {
    field: 'device',
    found: kind,
    remedy: 'start one process, or make the GPU usable: loram doctor says what is missing',
  })
}
