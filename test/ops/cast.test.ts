import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { cast, copyInto, countNonFinite } from '../../src/native/cast.ts'
import { type DType, elements } from '../../src/tensor/dtype.ts'
import { type Tensor, tensorFrom } from '../../src/tensor/tensor.ts'
import { guarded } from './guarded.ts'
import { onEveryDevice, random } from './support.ts'

const formats = { bf16: { exponentBits: 8, fractionBits: 7 }, f16: { exponentBits: 5, fractionBits: 10 } } as const
const halves = ['bf16', 'f16'] as const
const everyHalf = Uint16Array.from({ length: 65536 }, (_, bits) => bits)

/** The value of 16 bits, from the definition of the IEEE formats. */
function decode(bits: number, { exponentBits, fractionBits }: (typeof formats)[keyof typeof formats]): number {
  const sign = bits >> 15 ? -1 : 1
  const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1)
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits
  const bias = 2 ** (exponentBits - 1) - 1
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Infinity : Number.NaN
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias))
}

onEveryDevice('cast', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())
  const halfTensor = (dtype: DType, bits: Uint16Array): Tensor => device.empty([bits.length], dtype).write(bits)

  describe.each(halves)('%s', (dtype) => {
    const format = formats[dtype]

    test('all 65536 values widen exactly and come back', () => {
      const wide = cast(halfTensor(dtype, everyHalf), 'f32')
      expect(wide.read()).toEqual(Float32Array.from(everyHalf, (bits) => decode(bits, format)))
      const isNumber = (_: number, bits: number) => !Number.isNaN(decode(bits, format))
      expect((cast(wide, dtype).read() as Uint16Array).filter(isNumber)).toEqual(everyHalf.filter(isNumber))
    })

    test('NaN stays NaN', () => {
      const nan = tensorFrom(device, Float32Array.of(Number.NaN, -Number.NaN))
      // A NaN whose payload lies wholly in the bits that are cut off.
      const low = tensorFrom(device, new Float32Array(Uint32Array.of(0x7f800001, 0xff800001).buffer))
      for (const x of [nan, low]) {
        for (const bits of cast(x, dtype).read()) expect(decode(Number(bits), format)).toBeNaN()
      }
    })

    test('rounds to the nearest, halfway to even', () => {
      const largest = decode((2 ** format.exponentBits - 1) * 2 ** format.fractionBits - 1, format)
      const between = fc.record({
        bits: fc.nat(0x7fff),
        fraction: fc.constantFrom(0.25, 0.5, 0.75),
        sign: fc.boolean(),
      })
      const finite = between.filter(({ bits }) => Math.abs(decode(bits, format)) < largest)
      fc.assert(
        fc.property(fc.array(finite, { minLength: 1, maxLength: 200 }), (points) => {
          const ends = points.map(({ bits }) => [decode(bits, format), decode(bits + 1, format)] as const)
          const exact = ends.map(([low, high], i) => low + points[i]!.fraction * (high - low))
          // Between neighbours so close to zero that f32 cannot split them there is nothing to round.
          const usable = points.flatMap((point, i) =>
            Math.fround(exact[i]!) === exact[i] ? [{ ...point, x: exact[i]! }] : [],
          )
          fc.pre(usable.length > 0)
          const x = tensorFrom(
            device,
            Float32Array.from(usable, ({ x, sign }) => (sign ? -x : x)),
          )
          const want = usable.map(({ bits, fraction, sign }) => {
            const up = fraction > 0.5 || (fraction === 0.5 && bits % 2 === 1)
            return bits + (up ? 1 : 0) + (sign ? 0x8000 : 0)
          })
          expect(cast(x, dtype).read()).toEqual(Uint16Array.from(want))
        }),
      )
    })

    test('beyond the largest value lies infinity', () => {
      const infinity = (2 ** format.exponentBits - 1) * 2 ** format.fractionBits
      const largest = decode(infinity - 1, format)
      const gap = largest - decode(infinity - 2, format)
      const x = tensorFrom(
        device,
        Float32Array.of(largest + gap * 0.49, largest + gap / 2, -largest - gap / 2, Infinity),
      )
      expect(cast(x, dtype).read()).toEqual(Uint16Array.of(infinity - 1, infinity, infinity + 0x8000, infinity))
    })
  })

  test('between the 16-bit formats goes through the value', () => {
    const bits = Uint16Array.of(0x3c00, 0xc000, 0x7bff) // f16: 1, -2, 65504
    expect(cast(halfTensor('f16', bits), 'bf16').read()).toEqual(Uint16Array.of(0x3f80, 0xc000, 0x4780))
  })

  test.each([[1], [7, 61], [3, 2, 4300]])('copies any shape and any bits within a dtype: %i x ...', (...shape) => {
    const x = random(device, shape)
    expect(cast(x, 'f32').read()).toEqual(x.read())
    const y = device.empty(shape, 'bf16')
    copyInto(cast(x, 'bf16'), y)
    expect(y.read()).toEqual(cast(x, 'bf16').read())
    expect(y.shape).toEqual(shape)
  })

  test('copies within a dtype between rows that lie apart, as a matrix has them, and rows that do not', () => {
    for (const rows of [0, 1, 7]) {
      const [x, y] = [random(device, [rows, 61], 'bf16'), device.empty([rows, 61], 'bf16')]
      const close = device.empty([rows * 61], 'bf16').slice(0, [rows, 61], 61)
      copyInto(x, close)
      expect(close.read()).toEqual(x.read())
      copyInto(close, y)
      expect(y.read()).toEqual(x.read())
    }
  })

  test('refuses an output of another shape by name', () => {
    expect(() => copyInto(random(device, [2, 3]), random(device, [3, 2]))).toThrow(/cast: y does not fit/)
  })
})

onEveryDevice('countNonFinite', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())
  const bad = { f32: [Number.NaN, Infinity, -Infinity], bf16: [0x7fc0, 0x7f80, 0xff80], f16: [0x7e00, 0x7c00, 0xfc00] }

  test.each(['f32', 'bf16', 'f16'] as const)('finds every planted value of %s', (dtype) => {
    const positions = fc.uniqueArray(fc.nat(40000), { maxLength: 20 })
    fc.assert(
      fc.property(positions, fc.constantFrom([40001], [3, 13337]), (planted, shape) => {
        const size = elements(shape)
        const values = new (dtype === 'f32' ? Float32Array : Uint16Array)(size).fill(1)
        const inside = planted.filter((at) => at < size)
        inside.forEach((at, i) => {
          values[at] = bad[dtype][i % 3]!
        })
        const want = { count: inside.length, first: inside.length ? Math.min(...inside) : -1 }
        expect(countNonFinite(device.empty(shape, dtype).write(values))).toEqual(want)
      }),
      { numRuns: 30 },
    )
  })

  test('the largest finite values are finite', () => {
    const largest = {
      f32: [3.4028234663852886e38, -3.4028234663852886e38],
      bf16: [0x7f7f, 0xff7f],
      f16: [0x7bff, 0xfbff],
    }
    expect(countNonFinite(tensorFrom(device, Float32Array.from(largest.f32)))).toEqual({ count: 0, first: -1 })
    for (const dtype of halves) {
      const x = device.empty([2], dtype).write(Uint16Array.from(largest[dtype]))
      expect(countNonFinite(x)).toEqual({ count: 0, first: -1 })
    }
  })
})
