import { pass } from '../native/frame.ts'
import { onDevice } from '../native/gpuErrors.ts'
import { addon } from '../native/load.ts'
import type { Device, Tensor } from './tensor.ts'

/** Transfers of one lane come one after another; those of several run beside each other. */
export const lanes = 3

/**
 * Copies all of `x` over `y`, one of them in the host memory that `hostOf` gives for the other's device. On the GPU the copy
 * begins when what was asked of the GPU so far is done, and runs beside what is asked of it from now on: until
 * {@link awaitTransfers}, `x` must not be overwritten, and `y` not be read.
 * @param lane below {@link lanes}
 */
export function transfer(x: Tensor, y: Tensor, lane: number): void {
  if (x.device.kind === 'meta') return
  pass(x, y)
  onDevice(() => addon().transfer(lane))
}

/** What is asked of `device` from now on comes after every transfer of `lane` so far. The host does not wait. */
export function awaitTransfers({ kind }: Device, lane: number): void {
  if (kind === 'cuda') onDevice(() => addon().awaitTransfers(lane))
}
