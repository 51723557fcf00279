import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/** The gate of a Llama MLP (Shazeer 2020, arXiv 2002.05202): `y = silu(gate) * up`, all [rows, dim]. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  const { rows, dim } = match('swiglu', { gate: [gate, 'rows dim', 'float'], up: [up, 'rows dim', gate.dtype] })
  const y = gate.device.empty([rows, dim], gate.dtype)
  call('swiglu', gate, up, y)
  return y
}

/**
 * Backward of {@link swiglu}.
 * @param options `inPlace` writes `dgate` over `gate` and `dup` over `up`. Default false.
 */
export function swigluBackward(
  dy: Tensor,
  gate: Tensor,
  up: Tensor,
  { inPlace = false } = {},
): { dgate: Tensor; dup: Tensor } {
  const { rows, dim } = match('swigluBackward', {
    dy: [dy, 'rows dim', 'float'],
    gate: [gate, 'rows dim', dy.dtype],
    up: [up, 'rows dim', dy.dtype],
  })
  const dgate = inPlace ? gate : gate.device.empty([rows, dim], gate.dtype)
  const dup = inPlace ? up : gate.device.empty([rows, dim], gate.dtype)
  call('swigluBackward', dy, gate, up, dgate, dup)
  return { dgate, dup }
}
