import type { Tensor } from '../tensor/tensor.ts'
import { type Field, pass } from './frame.ts'
import { onDevice } from './gpuErrors.ts'
import { addon } from './load.ts'

/** Runs an op of `native/ops/ops.h` with its fields in order. */
export function call(op: string, ...fields: [Tensor, ...Field[]]): void {
  if (fields[0].device.kind === 'meta') return
  const run = addon()[op] as (length: number) => void
  const length = pass(...fields)
  onDevice(() => run(length))
}
