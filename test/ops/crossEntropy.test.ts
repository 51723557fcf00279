import { afterEach, describe, expect, test } from 'vitest'
import { crossEntropy } from '../../src/native/crossEntropy.ts'
import { type Tensor, tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import {
  expectWithin,
  floatsOf,
  floatTensor,
  generator,
  grid,
  onEveryDevice,
  readGolden,
  storing,
  toArray,
  unitRoundoff,
} from './support.ts'

const u = unitRoundoff.f32

interface Row {
  loss: number
  probabilities: Float64Array
}

function rowInDoubles(logits: Float32Array, target: number): Row {
  const max = logits.reduce((m, x) => Math.max(m, x), -Infinity)
  const exponentials = Float64Array.from(logits, (x) => Math.exp(x - max))
  const total = exponentials.reduce((sum, e) => sum + e, 0)
  return { loss: Math.log(total) - (logits[target]! - max), probabilities: exponentials.map((e) => e / total) }
}

onEveryDevice('crossEntropy', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  describe.each(grid({ dtype: floatsOf(device), rows: [1, 7, 129], vocab: [1, 61, 4300], range: [1, 40] } as const))(
    '$dtype [$rows, $vocab] in +-$range',
    ({ dtype, rows, vocab, range }) => {
      const next = generator(1)
      const values = Float32Array.from({ length: rows * vocab }, () => range * next())
      const given = () => floatTensor(device, values, [rows, vocab], dtype)
      const logits = Float32Array.from(toArray(given()))
      const targets = Int32Array.from({ length: rows }, () => Math.floor(((next() + 1) / 2) * vocab))
      const want = Array.from(targets, (target, i) => rowInDoubles(logits.subarray(i * vocab, (i + 1) * vocab), target))
      const scale = 1 / rows
      // exp is within 2 u, and x - max, up to twice the range, is rounded before it.
      const exponential = (2 + 2 * range) * u

      const run = (backward: boolean) => {
        const tensor = given()
        const loss = tensorFrom(device, Float32Array.of(3))
        const tokenLoss = device.empty([rows], 'f32')
        crossEntropy(tensor, tensorFrom(device, targets), loss, { scale, backward, tokenLoss })
        return { tensor, loss, tokenLoss }
      }

      test('adds the mean to loss and leaves the logits alone', () => {
        const { tensor, loss, tokenLoss } = run(false)
        expect(tensor.read()).toEqual(given().read())
        const losses = want.map((row) => row.loss)
        // The logarithm of the sum is off by the sum's relative error, and rounded at the end.
        expectWithin(tokenLoss, losses, (value) => exponential + u * value)
        const mean = losses.reduce((sum, value) => sum + value, 0) * scale
        expectWithin(loss, [3 + mean], (value) => exponential + 3 * u * value)
      })

      test('turns the logits into their gradient', () => {
        const { tensor, loss } = run(true)
        expect(loss.read()).toEqual(run(false).loss.read())
        const gradient = want.flatMap(({ probabilities }, i) =>
          Array.from(probabilities, (p, j) => scale * (j === targets[i] ? p - 1 : p)),
        )
        const probability = (at: number) => want[Math.floor(at / vocab)]!.probabilities[at % vocab]!
        // Numerator and denominator err once each; scale / sum and two products are rounded.
        const bound = (value: number, at: number) =>
          2 * exponential * scale * probability(at) + (4 * u + storing(dtype)) * Math.abs(value)
        expectWithin(tensor, gradient, (value, at) => bound(value, at) + 2 ** -126)
      })
    },
  )

  test('golden', () => {
    const golden = readGolden('ops', 'golden.safetensors')
    const { data, shape } = golden('cross_entropy.logits')
    const vocab = shape[1]!
    const labels = golden('cross_entropy.labels').ints
    const kept = Array.from(labels.keys()).filter((i) => labels[i]! >= 0)
    const pick = (values: Float32Array) =>
      Float32Array.from(kept.flatMap((i) => Array.from(values.subarray(i * vocab, (i + 1) * vocab))))
    const logits = tensorFrom(device, pick(data), [kept.length, vocab])
    const targets = tensorFrom(
      device,
      Int32Array.from(kept, (i) => labels[i]!),
    )
    const loss = zeros(device, [1], 'f32')
    crossEntropy(logits, targets, loss, { scale: 1 / kept.length, backward: true })
    // Logits reach 8; the golden values are rounded once more.
    expectWithin(loss, golden('cross_entropy.loss').data, (want) => 16 * u * want)
    expectWithin(logits, pick(golden('cross_entropy.dlogits').data), (want) => 40 * u * Math.abs(want))
  })

  const lossOf = (...values: number[]): number => {
    const loss = zeros(device, [1], 'f32')
    const logits: Tensor = tensorFrom(device, Float32Array.from(values), [1, values.length])
    crossEntropy(logits, tensorFrom(device, Int32Array.of(0)), loss, { scale: 1 })
    return toArray(loss)[0]!
  }

  test('logits far apart give a finite loss', () => {
    expect(lossOf(-1e4, 1e4)).toBe(2e4)
    expect(lossOf(1e4, -1e4, Number.NEGATIVE_INFINITY)).toBe(0)
  })

  test.each([0, 1, 40])('a NaN logit at %i gives a NaN loss', (at) => {
    const logits = new Array(50).fill(0)
    logits[at] = Number.NaN
    expect(lossOf(...logits)).toBeNaN()
  })
})
