import { afterEach, describe, expect, test } from 'vitest'
import { adamW, clipGradNorm } from '../../src/native/optimizer.ts'
import { tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import { expectWithin, onEveryDevice, random, readGolden, toArray, unitRoundoff } from './support.ts'

const u = unitRoundoff.f32
const factors = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01 }

onEveryDevice('adamW', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  test('three steps of torch', () => {
    const golden = readGolden('ops', 'golden.safetensors')
    const { data, shape } = golden('adamw.p0')
    const p = tensorFrom(device, data, shape)
    const [m, v] = [zeros(device, shape, 'f32'), zeros(device, shape, 'f32')]
    // torch may fuse a product and a sum where we round twice: a rounding of each term a step.
    const bound = (step: number) => (want: number) => step * u * (2 * Math.abs(want) + 4 * factors.learningRate)
    for (let step = 1; step <= 3; step++) {
      adamW(p, tensorFrom(device, golden(`adamw.grad${step - 1}`).data), m, v, { ...factors, step })
      expectWithin(p, golden(`adamw.p${step}`).data, bound(step))
    }
    const gradient = toArray(tensorFrom(device, golden('adamw.grad2').data))
    expectWithin(m, golden('adamw.m3').data, (want, i) => 4 * u * (Math.abs(want) + 0.1 * Math.abs(gradient[i]!)))
    expectWithin(v, golden('adamw.v3').data, (want) => 6 * u * want)
  })

  test.each([1, 7, 129, 40001])('a later step of %i parameters', (n) => {
    const [p, g, m] = [random(device, [n]), random(device, [n], 'f32', 2), random(device, [n], 'f32', 3)]
    const v = tensorFrom(
      device,
      Float32Array.from(toArray(random(device, [n], 'f32', 4)), (x) => x * x),
    )
    const [p0, g0, m0, v0] = [p, g, m, v].map(toArray) as [Float64Array, Float64Array, Float64Array, Float64Array]
    const { learningRate, beta1, beta2, eps, weightDecay } = factors
    const step = 1000
    adamW(p, g, m, v, { ...factors, step })
    const m1 = m0.map((x, i) => beta1 * x + (1 - beta1) * g0[i]!)
    const v1 = v0.map((x, i) => beta2 * x + (1 - beta2) * g0[i]! ** 2)
    const magnitude = m0.map((x, i) => Math.abs(x) + 0.1 * Math.abs(g0[i]!))
    // g - m, its product with a rounded factor, the sum; and a factor, two products and a sum of positive terms.
    expectWithin(m, m1, (_, i) => 4 * u * magnitude[i]!)
    expectWithin(v, v1, (want) => 4 * u * want)
    const denominator = v1.map((x) => Math.sqrt(x / (1 - beta2 ** step)) + eps)
    const rate = learningRate / (1 - beta1 ** step)
    const want = p0.map((x, i) => x * (1 - learningRate * weightDecay) - (rate * m1[i]!) / denominator[i]!)
    // The update carries the errors of m (4 u), of the root of v (2 u) and seven roundings of its own.
    expectWithin(p, want, (_, i) => 3 * u * Math.abs(p0[i]!) + (13 * u * rate * magnitude[i]!) / denominator[i]!)
  })
})

onEveryDevice('clipGradNorm', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())
  const euclidean = (x: Float64Array): number => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0))

  describe.each([1, 7, 129, 40001])('%i gradients', (n) => {
    test('scales a longer vector to maxNorm', () => {
      const grads = random(device, [n])
      const before = toArray(grads)
      const norm = euclidean(before)
      const maxNorm = norm / 3
      // The sum is in double: the norm is rounded once. Then torch's 1e-6, a quotient and a product.
      expectWithin(clipGradNorm(grads, maxNorm, device), [norm], (want) => u * want)
      const scale = Math.fround(maxNorm) / (norm + 1e-6)
      expectWithin(
        grads,
        before.map((x) => x * scale),
        (want) => 5 * u * Math.abs(want),
      )
    })

    test.each([0, 1e6])('leaves a vector alone with maxNorm %d', (maxNorm) => {
      const grads = random(device, [n])
      const before = toArray(grads)
      expectWithin(clipGradNorm(grads, maxNorm, device), [euclidean(before)], (want) => u * want)
      expect(toArray(grads)).toEqual(before)
    })
  })

  test('squares outside the range of f32 are summed all the same', () => {
    const grads = tensorFrom(device, Float32Array.of(3e30, 4e30))
    expectWithin(clipGradNorm(grads, 0, device), [5e30], (want) => 2 * u * want)
  })

  test('a NaN gradient shows in the norm', () => {
    expect(clipGradNorm(tensorFrom(device, Float32Array.of(1, Number.NaN)), 1, device).item()).toBeNaN()
  })
})
