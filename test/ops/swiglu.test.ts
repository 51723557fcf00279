import { afterEach, describe, expect, test } from 'vitest'
import { swiglu, swigluBackward } from '../../src/native/swiglu.ts'
import { bytesPerElement, type DType } from '../../src/tensor/dtype.ts'
import { tensorFrom } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import {
  expectWithin,
  floatsOf,
  floatTensor,
  grid,
  onEveryDevice,
  random,
  readGolden,
  storing,
  toArray,
  unitRoundoff,
} from './support.ts'

const u = unitRoundoff.f32
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

onEveryDevice('swiglu', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  // Where exp, or the sum below the quotient, is too large, the sigmoid is 0 instead of less than 2^-126; what it multiplies
  // is less than 128.
  const overflow = 2 ** -119
  // exp is within 2 u; by the GPU's own one, for results in 16 bits, its argument is rounded first.
  const ofArgument = (dtype: DType, x: number): number => (bytesPerElement[dtype] === 2 ? 2 * Math.abs(x) : 0)
  // Then a sum, a quotient and a product.
  const forwardBound =
    (dtype: DType, gate: ArrayLike<number>) =>
    (want: number, i: number): number =>
      ((6 + ofArgument(dtype, gate[i]!)) * u + storing(dtype)) * Math.abs(want) + overflow

  describe.each(grid({ dtype: floatsOf(device), rows: [1, 7, 129], dim: [1, 61, 4300], range: [1, 120] } as const))(
    '$dtype [$rows, $dim] in +-$range',
    ({ dtype, rows, dim, range }) => {
      const values = (seed: number, scale: number) => {
        const raw = toArray(random(device, [rows, dim], 'f32', seed)).map((x) => x * scale)
        const tensor = floatTensor(device, raw, [rows, dim], dtype)
        return { tensor, array: toArray(tensor) }
      }
      const run = () => ({ gate: values(1, range), up: values(2, 1), dy: values(3, 1) })

      test('forward', () => {
        const { gate, up } = run()
        const want = Float64Array.from(gate.array, (g, i) => g * sigmoid(g) * up.array[i]!)
        expectWithin(swiglu(gate.tensor, up.tensor), want, forwardBound(dtype, gate.array))
      })

      test('backward', () => {
        const { gate, up, dy } = run()
        const { dgate, dup } = swigluBackward(dy.tensor, gate.tensor, up.tensor)
        const g = Float64Array.from(gate.array)
        expectWithin(
          dup,
          g.map((x, i) => dy.array[i]! * x * sigmoid(x)),
          forwardBound(dtype, g),
        )
        // 1 + g (1 - sigmoid) cancels near its zero: judged by 1 + |g|. Sigmoid has 4 u, its complement 5 u, times g and
        // plus 1 makes 7 u (1 + |g|); the factors before it have 4 + 2 u and the last product 1.
        const factor = (i: number) => dy.array[i]! * up.array[i]! * sigmoid(g[i]!)
        expectWithin(
          dgate,
          g.map((x, i) => factor(i) * (1 + x * (1 - sigmoid(x)))),
          (want, i) =>
            (14 + 2 * ofArgument(dtype, g[i]!)) * u * Math.abs(factor(i)) * (1 + Math.abs(g[i]!)) +
            storing(dtype) * Math.abs(want) +
            overflow,
        )
      })
    },
  )

  test('golden', () => {
    const golden = readGolden('ops', 'golden.safetensors')
    const tensor = (name: string) => tensorFrom(device, golden(`swiglu.${name}`).data, golden(`swiglu.${name}`).shape)
    const [dy, gate, up] = [tensor('dy'), tensor('gate'), tensor('up')]
    const { dgate, dup } = swigluBackward(dy, gate, up)
    expectWithin(swiglu(gate, up), golden('swiglu.y').data, (want) => 7 * u * Math.abs(want))
    expectWithin(dup, golden('swiglu.dup').data, (want) => 7 * u * Math.abs(want))
    const [g, v, d] = [toArray(gate), toArray(up), toArray(dy)]
    expectWithin(dgate, golden('swiglu.dgate').data, (_, i) => 15 * u * Math.abs(d[i]! * v[i]!) * (1 + Math.abs(g[i]!)))
  })

  test('infinities and NaN go where the formula sends them', () => {
    const gate = tensorFrom(device, Float32Array.of(Infinity, Number.NaN, -1000), [1, 3])
    const y = toArray(swiglu(gate, tensorFrom(device, Float32Array.of(2, 1, 1), [1, 3])))
    expect(Array.from(y)).toEqual([Infinity, Number.NaN, -0])
  })

  test('refuses an up of another width by name', () => {
    expect(() => swiglu(random(device, [2, 8]), random(device, [2, 7]))).toThrow(/swiglu: up does not fit/)
  })
})
