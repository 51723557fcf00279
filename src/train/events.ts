import type { Evaluation } from '../infer/perplexity.ts'
import type { MemoryPlan } from '../memory/planner.ts'

export type Stage = 'prune' | 'align' | 'train' | 'recover'

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
  | { type: 'notice'; message: string }
