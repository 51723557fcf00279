import { afterEach, describe, expect, test } from 'vitest'
import { crossEntropy } from '../../src/native/crossEntropy.ts'
import { distillation } from '../../src/native/distillation.ts'
import { tensorFrom, zeros } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import {
  expectWithin,
  floatsOf,
  floatTensor,
  generator,
  grid,
  onEveryDevice,
  poisoned,
  storing,
  toArray,
  unitRoundoff,
} from './support.ts'

interface Case {
  weight: number
  temperature: number
}

const softmax = (logits: Float64Array, temperature: number): Float64Array => {
  const max = logits.reduce((m, x) => Math.max(m, x), -Infinity)
  const e = logits.map((x) => Math.exp((x - max) / temperature))
  const total = e.reduce((sum, x) => sum + x, 0)
  return e.map((x) => x / total)
}

/** The loss of one row by its definition, in doubles. */
function lossInDoubles(student: Float64Array, teacher: Float64Array, target: number, { weight, temperature }: Case) {
  const [q, p] = [softmax(student, temperature), softmax(teacher, temperature)]
  const divergence = p.reduce((sum, x, j) => sum + (x > 0 ? x * Math.log(x / q[j]!) : 0), 0)
  return -(1 - weight) * Math.log(softmax(student, 1)[target]!) + weight * temperature ** 2 * divergence
}

onEveryDevice('distillation', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  const cases = { dtype: floatsOf(device), vocab: [1, 61, 1025], temperature: [1, 2.5], weight: [0, 0.3, 1] } as const
  describe.each(grid(cases))('$dtype [5, $vocab], T $temperature, weight $weight', (c) => {
    const { dtype, vocab } = c
    const rows = 5
    const next = generator(1)
    const values = () => Float32Array.from({ length: rows * vocab }, () => 6 * next())
    const [given, taught] = [values(), values()].map((data) => floatTensor(device, data, [rows, vocab], dtype))
    const targets = Int32Array.from({ length: rows }, () => Math.floor(((next() + 1) / 2) * vocab))
    const row = (all: Float64Array, i: number) => all.subarray(i * vocab, (i + 1) * vocab)
    const [student, teacher] = [toArray(given!), toArray(taught!)]
    const lossOf = (i: number, logits = row(student, i)) => lossInDoubles(logits, row(teacher, i), targets[i]!, c)
    const scale = 1 / rows
    const run = (backward: boolean) => {
      const logits = given!.clone()
      const loss = tensorFrom(device, Float32Array.of(3))
      distillation(logits, taught!, tensorFrom(device, targets), loss, { ...c, scale, backward })
      return { logits, loss }
    }

    test('adds the mean to loss and leaves the logits alone', () => {
      const { logits, loss } = run(false)
      expect(logits.read()).toEqual(given!.read())
      const want = targets.reduce((sum, _, i) => sum + scale * lossOf(i), 3)
      // exp of differences up to 12, each within 2 u and rounded before; logarithms of sums of them, with T^2 in front
      expectWithin(loss, [want], () => (8 + 26 * c.temperature ** 2) * unitRoundoff.f32 * (3 + 12))
    })

    test('gradients are the slopes of the loss', () => {
      const { logits } = run(true)
      const h = 1e-4
      const want = student.map((_, at) => {
        const [i, j] = [Math.floor(at / vocab), at % vocab]
        const shifted = (by: number) =>
          lossOf(
            i,
            Float64Array.from(row(student, i), (x, k) => (k === j ? x + by : x)),
          )
        return vocab > 100 && j % 50 !== 0 && j !== targets[i]
          ? Number.NaN
          : (scale * (shifted(h) - shifted(-h))) / (2 * h)
      })
      const got = toArray(logits)
      const checked = Array.from(want.keys()).filter((at) => !Number.isNaN(want[at]!))
      // Truncation of order h^2; three probabilities of 30 u each, at most 1 times T
      const bound = scale * c.temperature * 90 * unitRoundoff.f32 + 1e-8
      expectWithin(
        checked.map((at) => got[at]!),
        checked.map((at) => want[at]!),
        (slope) => bound + storing(dtype) * Math.abs(slope),
      )
    })
  })

  test('with weight 0 it is cross-entropy, with weight 1 and the teacher itself nothing', () => {
    const data = Float32Array.from({ length: 3 * 50 }, generator(2))
    const logits = () => tensorFrom(device, data, [3, 50])
    const targets = tensorFrom(device, Int32Array.of(4, 49, 0))
    const [a, b] = [logits(), logits()]
    const [lossA, lossB] = [zeros(device, [1], 'f32'), zeros(device, [1], 'f32')]
    crossEntropy(a, targets, lossA, { scale: 0.5, backward: true })
    distillation(b, logits(), targets, lossB, { scale: 0.5, weight: 0, temperature: 2, backward: true })
    expectWithin(lossB, toArray(lossA), (want) => 8 * unitRoundoff.f32 * want)
    expectWithin(b, toArray(a), () => 4 * unitRoundoff.f32)
    const same = logits()
    lossA.zero()
    distillation(same, logits(), targets, lossA, { scale: 0.5, weight: 1, temperature: 3, backward: true })
    expectWithin(lossA, [0], () => 1e-6)
    expectWithin(same, new Float32Array(150), () => 1e-6)
  })

  test('another vocabulary is refused', () => {
    const [logits, teacher] = [poisoned(device, [2, 5]), poisoned(device, [2, 6])]
    const targets = tensorFrom(device, Int32Array.of(0, 1))
    const options = { scale: 1, weight: 1, temperature: 1 }
    expect(() => distillation(logits, teacher, targets, zeros(device, [1], 'f32'), options)).toThrow(/teacher/)
  })
})
