import fc from 'fast-check'
import { expect, test } from 'vitest'
import { alone } from '../../src/distributed/group.ts'
import { ParameterSet } from '../../src/train/parameters.ts'
import { onEveryDevice, toArray } from '../ops/support.ts'

const shapes = fc
  .array(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 2 }), { minLength: 1, maxLength: 6 })
  .map((all) => new Map(all.map((shape, i) => [`weight ${i}`, shape])))

const count = (parameters: ParameterSet, value: number) => toArray(parameters.values).filter((v) => v === value).length

onEveryDevice('parameters', (device) => {
  test('however many processes divide parameters, each value is kept by one of them', () => {
    fc.assert(
      fc.property(shapes, fc.integer({ min: 1, max: 7 }), (shapes, size) => {
        const sets = Array.from(
          { length: size },
          (_, rank) => new ParameterSet(device, shapes, { share: { rank, size } }),
        )
        const names = [...shapes.keys()]
        for (const set of sets) {
          for (const [i, name] of names.entries()) {
            const { value } = set.get(name)
            value.write(new Float32Array(value.elements).fill(1 + i))
          }
          set.round()
        }
        for (const [i, name] of names.entries()) {
          const { elements } = sets[0]!.get(name).value
          expect(sets.reduce((sum, set) => sum + count(set, 1 + i), 0)).toBe(elements)
          const own = sets.map((set) => set.ownOf(name))
          expect(own.reduce((sum, part) => sum + (part?.value.elements ?? 0), 0)).toBe(elements)
          for (const part of own) if (part) expect(new Set(toArray(part.value))).toEqual(new Set([1 + i]))
          for (const set of sets) expect(new Set(toArray(set.get(name).operand))).toEqual(new Set([1 + i]))
        }
      }),
    )
  })

  test('what is saved by some is taken up by others', () => {
    const shapes = new Map([['weight', [50, 3]]])
    const whole = new ParameterSet(device, shapes)
    whole.get('weight').value.write(Float32Array.from({ length: 150 }, (_, i) => i))
    const bytes = new Uint8Array(whole.gather(whole.values, alone).read().buffer)
    const parts = [0, 1, 2].map((rank) => {
      const set = new ParameterSet(device, shapes, { share: { rank, size: 3 } })
      set.restore(set.values, (target, from) => target.set(bytes.subarray(from, from + target.length)))
      return new Uint8Array(set.values.read().buffer)
    })
    expect(Buffer.concat(parts).subarray(0, bytes.length).equals(bytes)).toBe(true)
  })
})
