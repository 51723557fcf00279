export const schedules = ['cosine', 'linear', 'constant'] as const
export type Schedule = (typeof schedules)[number]

export interface ScheduleOptions {
  schedule: Schedule
  /** The rate after warm-up. */
  learningRate: number
  /** Steps that the rate takes to rise from 0, which is the first step's rate unless this is 0. */
  warmupSteps: number
  totalSteps: number
}

/** Learning rate of step `step`, counted from 0, as transformers' schedules of the same names. */
export function learningRateAt(
  { schedule, learningRate, warmupSteps, totalSteps }: ScheduleOptions,
  step: number,
): number {
  if (step < warmupSteps) return (learningRate * step) / warmupSteps
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps))
  switch (schedule) {
    case 'cosine':
      return (learningRate * (1 + Math.cos(Math.PI * progress))) / 2
    case 'linear':
      return learningRate * (1 - progress)
    case 'constant':
      return learningRate
  }
}
