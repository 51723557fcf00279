import type { Tensor } from '../tensor/tensor.ts'
import { call } from './call.ts'
import { match } from './shapes.ts'

/** The gate of a Llama MLP (Shazeer 2020, arXiv 2002.05202): `y = silu(gate) * up`, all [rows, dim]. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  const { rows, dim } = match('swiglu', { gate: [gate, 'rows dim', 'f32'], up: [up, 'rows dim', 'f32'] })
  const y = gate.device.empty([rows, dim], 'f32')
  call('swiglu', gate, up, y)
  return y
}

/** Backward of {@link swiglu}. */
export function swigluBackward(dy: Tensor, gate: Tensor, up: Tensor): { dgate: Tensor; dup: Tensor } {
  const { rows, dim } = match('swigluBackward', {
    dy: [dy, 'rows dim', 'f32'],
    gate: [gate, 'rows dim', 'f32'],
    up: [up, 'rows dim', 'f32'],
  })
  const dgate = gate.device.empty([rows, dim], 'f32')
  const dup = gate.device.empty([rows, dim], 'f32')
  call('swigluBackward', dy, gate, up, dgate, dup)
  return { dgate, dup }
}
