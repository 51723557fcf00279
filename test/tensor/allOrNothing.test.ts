import { expect, test } from 'vitest'
import { openModelFolder, readModel } from '../../src/model/open.ts'
import { cpu } from '../../src/tensor/device.ts'
import { disposing } from '../../src/tensor/disposing.ts'
import { allOrNothing, type Device, type Tensor } from '../../src/tensor/tensor.ts'
import { goldenPath } from '../golden.ts'

/** Host memory that is full after so many tensors, and those. */
function fullAfter(count: number): { device: Device; tensors: Tensor[] } {
  const tensors: Tensor[] = []
  const empty: Device['empty'] = (shape, dtype) => {
    if (tensors.length === count) throw new RangeError('full')
    tensors.push(cpu.empty(shape, dtype))
    return tensors.at(-1)!
  }
  return { device: { ...cpu, empty }, tensors }
}

const isReleased = (tensor: Tensor): boolean => {
  try {
    tensor.read()
    return false
  } catch (error) {
    expect(String(error)).toContain('was released')
    return true
  }
}

const pair = (device: Device) => [device.empty([2], 'f32'), device.empty([2], 'f32')]

test('what is made half goes back, and what is made whole stays', () => {
  const { device, tensors } = fullAfter(5)
  const whole = allOrNothing(() => [...allOrNothing(() => pair(device)), device.empty([2], 'f32')])
  expect(whole.map(isReleased)).toEqual([false, false, false])
  expect(() => allOrNothing(() => [pair(device), pair(device)])).toThrow('full')
  expect(tensors.map(isReleased)).toEqual([false, false, false, true, true])
})

test('what was made before and belongs to the whole goes too', () => {
  const { device, tensors } = fullAfter(3)
  expect(() => allOrNothing(() => [allOrNothing(() => pair(device)), pair(device)])).toThrow('full')
  expect(tensors.map(isReleased)).toEqual([true, true, true])
})

test('disposing gives back what it owns, and what the last maker had begun', () => {
  const { device, tensors } = fullAfter(2)
  const work = () =>
    disposing((own) => {
      own(() => device.empty([2], 'f32'))
      own(() => pair(device)[0]!)
    })
  expect(work).toThrow('full')
  expect(tensors.map(isReleased)).toEqual([true, true])
})

test.each([1, 7, 20])('a model that stops after %i tensors leaves none', (count) => {
  const { device, tensors } = fullAfter(count)
  const source = openModelFolder(goldenPath('models', 'llama3'))
  expect(() => readModel(source, device, { quantize: 'nf4' })).toThrow('full')
  expect(tensors).toHaveLength(count)
  expect(tensors.filter((tensor) => !isReleased(tensor))).toEqual([])
  source.checkpoint.close()
})
