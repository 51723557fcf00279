import { expect, test } from 'vitest'
import { learningRateAt, schedules } from '../../src/train/schedule.ts'
import { goldenValues } from '../golden.ts'

const options = { learningRate: 1, warmupSteps: 3, totalSteps: 12 }

test('cosine is that of transformers, step by step', () => {
  const want = goldenValues('lora', 'cosine_schedule.warmup3.total12')
  want.forEach((rate, step) => {
    expect(learningRateAt({ ...options, schedule: 'cosine' }, step)).toBeCloseTo(rate, 15)
  })
})

test.each(schedules)('%s rises from 0 to the full rate', (schedule) => {
  const rates = [0, 1, 2, 3].map((step) => learningRateAt({ ...options, schedule }, step))
  expect(rates).toEqual([0, 1 / 3, 2 / 3, 1])
})

test('linear falls to 0 and constant stays', () => {
  expect(learningRateAt({ ...options, schedule: 'linear' }, 6)).toBe(1 - 3 / 9)
  expect(learningRateAt({ ...options, schedule: 'linear' }, 12)).toBe(0)
  expect(learningRateAt({ ...options, schedule: 'constant' }, 12)).toBe(1)
})

test.each(schedules)('%s begins at the full rate without warm-up', (schedule) => {
  expect(learningRateAt({ ...options, schedule, warmupSteps: 0 }, 0)).toBe(1)
})
