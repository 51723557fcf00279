import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { cast } from '../../src/native/cast.ts'
import { dequantizeNf4, type Nf4Weight, quantizeNf4 } from '../../src/native/nf4.ts'
import { type Device, tensorFrom } from '../../src/tensor/tensor.ts'
import { expectWithin, fromBf16, onEveryDevice, random, readGolden, toArray, unitRoundoff } from './support.ts'

const golden = readGolden('nf4', 'golden.safetensors')
const levels = golden('code_nf4').data
const dynamicMap = golden('code_dynamic8').data

// Multiples of a block and not; an odd number of values; blocks of zeros and of extreme values.
const matrices = ['f32_64x64', 'bf16_128x192', 'f32_128x192', 'f32_33x64', 'bf16_64x61', 'f32_33x61', 'f32_64x176']
matrices.push('bf16_61x100', 'f32_edge_6x64')

const codesOf = (packed: Uint8Array, count: number) =>
  Uint8Array.from({ length: count }, (_, i) => (i % 2 ? packed[i >> 1]! & 15 : packed[i >> 1]! >> 4))

onEveryDevice('nf4', (device) => {
  describe.each(matrices)('golden %s', (name) => {
    const { data, shape, dtype } = golden(`${name}.input`)
    const w = () => device.empty(shape, dtype).write(data)
    const asStored = name.startsWith('bf16') ? 'bf16' : 'f32'
    const count = shape[0]! * shape[1]!

    test('codes, absmax and values are those of bitsandbytes', () => {
      const weight = quantizeNf4(w(), { doubleQuantize: false })
      expect(codesOf(weight.packed.read() as Uint8Array, count)).toEqual(codesOf(golden(`${name}.packed`).bytes, count))
      expect(weight.absmax.read()).toEqual(golden(`${name}.absmax`).data)
      expect(dequantizeNf4(weight, asStored).read()).toEqual(golden(`${name}.dequant`).data)
    })

    test('so is the double quantisation', () => {
      const weight = quantizeNf4(w())
      expect(weight.absmax.read()).toEqual(golden(`${name}.dqcuda.absmax`).bytes)
      // The mean's last bit depends on the order of its sum, and what is subtracted from absmax moves with it.
      const offset = golden(`${name}.dq.offset`).data
      expectWithin(weight.nestedOffset!, offset, (want) => 2 * unitRoundoff.f32 * Math.abs(want))
      const nested = golden(`${name}.dq.nested_absmax`).data
      expectWithin(weight.nestedAbsmax!, nested, (want) => 2 * unitRoundoff.f32 * (want + offset[0]!))
    })

    test.each(['dq', 'dqcuda'])('reads what %s wrote', (writer) => {
      const part = (key: string) => tensorFrom(device, golden(key).data)
      const weight: Nf4Weight = {
        shape: shape as [number, number],
        packed: part(`${name}.packed`),
        absmax: tensorFrom(device, golden(`${name}.${writer}.absmax`).bytes),
        nestedAbsmax: part(`${name}.dq.nested_absmax`),
        nestedOffset: part(`${name}.dq.offset`),
      }
      expect(dequantizeNf4(weight, asStored).read()).toEqual(golden(`${name}.${writer}.dequant`).data)
    })
  })

  test('every value goes to the nearest level of its block, every absmax to the nearest of the map', () => {
    const value = fc.float({ min: -1000, max: 1000, noNaN: true })
    fc.assert(
      fc.property(fc.array(value, { minLength: 1, maxLength: 700 }), (values) => {
        expectNearest(device, Float32Array.from(values))
      }),
      { numRuns: 60 },
    )
  })

  test('bf16 and f32 of the same values give the same weight', () => {
    const w = random(device, [33, 61], 'bf16')
    const wide = tensorFrom(device, fromBf16(w.read() as Uint16Array), [33, 61])
    const [narrow, other] = [quantizeNf4(w), quantizeNf4(wide)]
    expect(narrow.packed.read()).toEqual(other.packed.read())
    expect(narrow.absmax.read()).toEqual(other.absmax.read())
  })

  test('f16 and f32 of the same values give the same weight', () => {
    const w = cast(random(device, [33, 61]), 'f16')
    const [narrow, wide] = [quantizeNf4(w), quantizeNf4(cast(w, 'f32'))]
    expect(narrow.packed.read()).toEqual(wide.packed.read())
    expect(narrow.absmax.read()).toEqual(wide.absmax.read())
  })

  test('zeros stay zeros, in the code 7', () => {
    const weight = quantizeNf4(tensorFrom(device, new Float32Array(300), [3, 100]))
    expect(weight.packed.read()).toEqual(new Uint8Array(150).fill(0x77))
    expect(toArray(dequantizeNf4(weight, 'f32')).every((x) => x === 0)).toBe(true)
  })
})

function expectNearest(device: Device, values: Float32Array) {
  const w = tensorFrom(device, values, [1, values.length])
  const { packed, absmax } = quantizeNf4(w, { doubleQuantize: false })
  const scales = toArray(absmax)
  const codes = codesOf(packed.read() as Uint8Array, values.length)
  const restored = Float64Array.from(codes, (code, i) => Math.fround(levels[code]! * scales[i >> 6]!))
  expect(toArray(dequantizeNf4({ shape: [1, values.length], packed, absmax }, 'f32'))).toEqual(restored)
  // The reciprocal, the product and the midpoint are rounded; below 1e-38 the reciprocal is that of 1e-38.
  expectWithin(restored, values, (want, i) => {
    const best = Math.min(...Array.from(levels, (level) => Math.abs(level * scales[i >> 6]! - want)))
    return best + 6 * unitRoundoff.f32 * scales[i >> 6]! + 1e-38
  })

  const double = quantizeNf4(w)
  const [nested, [offset]] = [toArray(double.nestedAbsmax!), toArray(double.nestedOffset!)]
  const read = Float64Array.from(double.absmax.read() as Uint8Array, (code, i) => {
    return Math.fround(Math.fround(dynamicMap[code]! * nested[i >> 8]!) + offset!)
  })
  expectWithin(read, scales, (want, i) => {
    const best = Math.min(...Array.from(dynamicMap, (entry) => Math.abs(entry * nested[i >> 8]! + offset! - want)))
    return best + 6 * unitRoundoff.f32 * (nested[i >> 8]! + Math.abs(offset!) + want)
  })
}
