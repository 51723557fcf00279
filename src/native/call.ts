import { Tensor } from '../tensor/tensor.ts'
import { onDevice } from './gpuErrors.ts'
import { addon } from './load.ts'

type Argument = Tensor | number | boolean | undefined

/** Runs an op of `native/ops/ops.h` with its fields in order; `undefined` is an optional tensor that is absent. */
export function call(op: string, ...fields: [Tensor, ...Argument[]]): void {
  if (fields[0].device.kind === 'meta') return
  const run = addon()[op] as (...handles: unknown[]) => void
  onDevice(() => run(...fields.map((field) => (field instanceof Tensor ? field.handle : (field ?? null)))))
}
