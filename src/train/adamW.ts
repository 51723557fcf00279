import { alone, type Group } from '../distributed/group.ts'
import { adamW } from '../native/optimizer.ts'
import { type Tensor, zeros } from '../tensor/tensor.ts'
import type { ParameterSet } from './parameters.ts'

export interface AdamWOptions {
  beta1: number
  beta2: number
  eps: number
  weightDecay: number
}

/** torch's and the paper's defaults. */
export const adamWDefaults: AdamWOptions = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0 }

/** AdamW (arXiv 1711.05101) over a parameter set: two moments in f32 beside every value that this process keeps. */
export class AdamW {
  readonly firstMoment: Tensor
  readonly secondMoment: Tensor
  /** Updates made so far. */
  step = 0
  private readonly parameters: ParameterSet
  private readonly options: AdamWOptions

  constructor(parameters: ParameterSet, options: AdamWOptions) {
    const { device, shape } = parameters.values
    this.parameters = parameters
    this.options = options
    this.firstMoment = zeros(device, shape, 'f32')
    this.secondMoment = zeros(device, shape, 'f32')
  }

  /** Gives the memory of the moments back. */
  dispose(): void {
    this.firstMoment.dispose()
    this.secondMoment.dispose()
  }

  /** @param group of the processes that divide the parameters, each of which must call it */
  update(learningRate: number, group: Group = alone): void {
    const { parameters } = this
    const { values, ownGrads } = parameters
    adamW(values, ownGrads, this.firstMoment, this.secondMoment, { ...this.options, learningRate, step: ++this.step })
    parameters.publish(group)
  }
}
