import { expect, test } from 'vitest'
import {
  type Dropout,
  type Linear,
  linearBackward,
  linearForward,
  linearsBackward,
  linearsForward,
} from '../../src/model/linear.ts'
import { type Device, type Tensor, zeros } from '../../src/tensor/tensor.ts'
import { ParameterSet } from '../../src/train/parameters.ts'
import { adding } from '../ops/product.ts'
import { expectWithin, grid, largest, onEveryDevice, random, storing, toArray } from '../ops/support.ts'

const widths = [40, 16, 24]

/** Three layers of one input of width K with pairs of a rank: their A side by side as in training, or each beside its B. */
function layersOf(device: Device, K: number, rank: number, together: boolean): Linear[] {
  const a = widths.map((_, i): [string, number[]] => [`${i}.a`, [rank, K]])
  const b = widths.map((N, i): [string, number[]] => [`${i}.b`, [N, rank]])
  const shapes = together ? [...a, ...b] : widths.flatMap((_, i) => [a[i]!, b[i]!])
  const parameters = new ParameterSet(device, new Map(shapes), { rounds: true })
  const layers = widths.map((N, index): Linear => {
    const [a, b] = [parameters.get(`${index}.a`), parameters.get(`${index}.b`)]
    for (const [i, { value, grad }] of [a, b].entries()) {
      value.write(random(device, [...value.shape], 'f32', 2 * index + i).read())
      grad.write(random(device, [...grad.shape], 'f32', 2 * index + i + 10).read())
    }
    const lora = { a: a.operand, b: b.operand, grads: { a: a.grad, b: b.grad }, scale: 2, index }
    return { weight: random(device, [N, K], device.activations, index), lora }
  })
  parameters.round()
  return layers
}

interface Inputs {
  x: Tensor
  dys: Tensor[]
}
const inputsOf = (device: Device, T: number, K: number): Inputs => ({
  x: random(device, [T, K], device.activations, 20),
  dys: widths.map((N, i) => random(device, [T, N], device.activations, 30 + i)),
})

function together(layers: Linear[], { x, dys }: Inputs, dropout?: Dropout) {
  const us = linearsForward(layers, x, dropout).map(({ u }) => u)
  return { us, dx: linearsBackward(layers, x, us, dys, dropout) }
}

function oneByOne(layers: Linear[], { x, dys }: Inputs, dropout?: Dropout) {
  const us = layers.map((layer) => linearForward(layer, x, { dropout }).u)
  const dx = zeros(x.device, x.shape, x.dtype)
  for (const [i, layer] of layers.entries()) linearBackward(layer, x, us[i], dys[i]!, { dropout, addTo: dx })
  return { us, dx }
}

const shareMemory = (tensors: readonly (Tensor | undefined)[]) =>
  new Set(tensors.map((tensor) => tensor?.memory.storage)).size === 1

onEveryDevice('layers of one input', (device) => {
  test.each(grid({ T: [7, 80], K: [64, 4300], rank: [4, 8, 16] } as const))(
    'compute what each does alone: %o',
    ({ T, K, rank }) => {
      const inputs = inputsOf(device, T, K)
      const layers = layersOf(device, K, rank, true)
      const got = together(layers, inputs)
      expect(shareMemory(got.us)).toBe(rank % 8 === 0 && (rank * K) % 64 === 0)
      const alone = layersOf(device, K, rank, false)
      const want = oneByOne(alone, inputs)
      expect(shareMemory(want.us)).toBe(false)

      // The CPU adds up in the same order. On the GPU two sums of `terms` products, each at most `size`, err apart.
      const sums = (terms: number, size: number) =>
        device.activations === 'f32' ? 0 : 2 * adding(device, terms + 3) * terms * size
      const rounding = 2 * storing(device.activations)
      expectWithin(got.dx, toArray(want.dx), () => 0)
      for (const [i, { lora }] of layers.entries()) {
        const wantU = toArray(want.us[i]!)
        const wantGrads = alone[i]!.lora!.grads!
        expectWithin(got.us[i]!, wantU, (value) => sums(K, 2) + rounding * Math.abs(value))
        expectWithin(lora!.grads!.a, toArray(wantGrads.a), () => sums(T, 2 * widths[i]!))
        const size = largest(wantU)
        const errorOfU = sums(K, 2) + rounding * size
        expectWithin(lora!.grads!.b, toArray(wantGrads.b), () => sums(T, size) + T * errorOfU)
      }
    },
  )

  test.each<[string, (layer: Linear) => void, Dropout?]>([
    ['a mask for each', () => {}, { rate: 0.5, seed: 1, stream: 0 }],
    ['another scale', (layer) => Object.assign(layer, { lora: { ...layer.lora, scale: 3 } })],
    ['a pair missing', (layer) => delete layer.lora],
  ])('are taken one by one with %s', (_name, change, dropout) => {
    const resultsOf = (run: typeof together) => {
      const layers = layersOf(device, 64, 8, true)
      change(layers[1]!)
      const { us, dx } = run(layers, inputsOf(device, 80, 64), dropout)
      return [...us, dx, ...layers.map(({ lora }) => lora?.grads?.a)].map((tensor) => tensor && toArray(tensor))
    }
    expect(resultsOf(together)).toEqual(resultsOf(oneByOne))
  })
})
