import type { Evaluation } from '../infer/perplexity.ts'
import type { MemoryPlan } from '../memory/planner.ts'

export type Stage = 'prune' | 'align' | 'train' | 'recover'

/** What a model makes of an evaluation prompt. */
export interface SampledAnswer {
  prompt: string
  /** What the data say. */
  expected: string
  /** What the model says, taking the most likely token each time. */
  answer: string
}

/** What a run reports while it works; plain data, one JSON line each in `events.jsonl`. */
export type RunEvent =
  | { type: 'plan'; plan: MemoryPlan }
  | { type: 'stage'; stage: Stage; status: 'started' | 'finished' | 'reused' }
  | {
      type: 'step'
      stage: Stage
      step: number
      totalSteps: number
      loss: number
      gradNorm: number
      learningRate: number
      tokensPerSecond: number
    }
  | ({ type: 'evaluation'; stage: Stage; step: number } & Evaluation)
  | { type: 'checkpoint'; stage: Stage; step: number; folder: string }
  | ({ type: 'sample'; stage: Stage; step: number } & SampledAnswer)
  | { type: 'notice'; message: string }
