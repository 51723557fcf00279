import { LoramError, messageOf, OpError } from '../errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type Field, pass } from './frame.ts'
import { onDevice } from './gpuErrors.ts'
import { addon } from './load.ts'

/** Runs an op of `native/ops/ops.h` with its fields in order. */
export function call(op: string, ...fields: [Tensor, ...Field[]]): void {
  if (fields[0].device.kind === 'meta') return
  const run = addon()[op] as (length: number) => void
  const length = pass(...fields)
  onTensors(op, () => run(length))
}

/**
 * {@link onDevice} for a call that takes tensors from the frame.
 * @throws {OpError} `E_OP`: memory of a tensor was released or ends before it, a field is missing, or the op refuses one.
 */
export function onTensors(op: string, body: () => void): void {
  try {
    onDevice(body)
  } catch (error) {
    if (error instanceof LoramError) throw error
    throw new OpError('E_OP', `${op} failed`, {
      ...(error instanceof TypeError && { expected: 'every tensor and number that it takes' }),
      found: messageOf(error),
      cause: error,
    })
  }
}
