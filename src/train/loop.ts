import { mkdirSync } from 'node:fs'
import path from 'node:path'
import type { Batch, BatchState, BatchStream } from '../data/batches.ts'
import { type Group, isFirst, type SharedContext, total } from '../distributed/group.ts'
import { AbortError, RunError } from '../errors.ts'
import { writing } from '../formats/disk.ts'
import type { Evaluation } from '../infer/perplexity.ts'
import { countNonFinite } from '../native/cast.ts'
import { requireAgreement } from './agreement.ts'
import {
  checkpointsIn,
  loadParameters,
  type Progress,
  restoreNewest,
  saveCheckpoint,
  saveParameters,
} from './checkpoint.ts'
import type { RunEvent, Stage } from './events.ts'
import { learningRateAt, type ScheduleOptions } from './schedule.ts'
import { type Trainer, trainStep } from './step.ts'

export interface LoopOptions {
  stage: Stage
  trainer: Trainer
  /** Makes the batches from where a checkpoint left them. */
  batches: (state?: BatchState) => BatchStream
  schedule: ScheduleOptions
  /** Holds the checkpoints. */
  folder: string
  resume: boolean
  saveSteps: number
  keepCheckpoints: number
  evaluation?: { every: number; patience: number | undefined; evaluate: () => Evaluation | undefined }
}

const bestFile = 'best.safetensors'

/**
 * Trains for `schedule.totalSteps` steps, or until evaluations stop improving. Afterwards the parameters are those of the
 * best evaluation where there are evaluations, else the last ones.
 * @throws {AbortError} the signal of this process or another one, in all of them at the end of the same step, with a checkpoint written
 * @throws {RunError} `E_NAN_LOSS`: a loss, a gradient or a parameter is no number; `E_DIVERGED`: processes have different parameters
 */
export function runLoop(options: LoopOptions, { emit, signal, group }: SharedContext<RunEvent>): Progress {
  const { stage, trainer, schedule, folder, evaluation } = options
  const { parameters, optimizer } = trainer
  const resumed = options.resume
    ? restoreNewest(folder, parameters, optimizer, (damaged) =>
        emit({
          type: 'notice',
          message: `${damaged} is damaged or incomplete; an older checkpoint is used, if there is one`,
        }),
      )
    : undefined
  const stream = options.batches(resumed?.batches)
  const progress: Progress = { step: 0, evaluatedStep: 0, evaluationsSinceBest: 0, ...resumed, batches: stream.state }
  let savedStep = progress.step
  const save = () => {
    savedStep = progress.step
    if (total(group, [countNonFinite(parameters.values).count])[0] > 0) {
      throw notANumber(`a parameter of ${stage} after step ${progress.step}`, folder)
    }
    requireAgreement(group, parameters, progress.step)
    const saved = saveCheckpoint(folder, parameters, optimizer, progress, options.keepCheckpoints, group)
    group.barrier()
    emit({ type: 'checkpoint', stage, step: progress.step, folder: saved })
  }

  for (const message of unevenness(stream, group)) emit({ type: 'notice', message })
  group.barrier()
  requireAgreement(group, parameters, progress.step)
  if (isFirst(group)) writing(folder, () => mkdirSync(folder, { recursive: true }))
  const source = stream[Symbol.iterator]()
  for (;;) {
    if (evaluation && isDue(progress, evaluation.every, schedule.totalSteps)) record(evaluation.evaluate())
    const isLast = progress.step >= schedule.totalSteps || isStale(progress, evaluation?.patience)
    const isSaved = progress.step === savedStep || progress.step % options.saveSteps !== 0
    const [aborted] = total(group, [Number(signal.aborted)])
    if (aborted || isLast || !isSaved) save()
    if (aborted) {
      throw new AbortError(`${stage} was aborted after step ${progress.step}`, { remedy: 'resume to go on from there' })
    }
    if (isLast) break
    step(source.next().value)
  }
  if (progress.best) {
    group.barrier()
    loadParameters(path.join(folder, bestFile), parameters)
  }
  return progress

  function step(batch: Batch): void {
    const began = performance.now()
    const { totalSteps } = schedule
    const learningRate = learningRateAt(schedule, progress.step)
    const { loss: part, gradNorm } = trainStep(trainer, batch, learningRate)
    const read = batch.microBatches.reduce((sum, { ids }) => sum + ids.length, 0)
    const [loss, tokens] = total(group, [part, read])
    if (!Number.isFinite(loss)) throw notANumber(`the loss of ${stage} in step ${progress.step + 1}`, folder, batch)
    if (!Number.isFinite(gradNorm))
      throw notANumber(`a gradient of ${stage} in step ${progress.step + 1}`, folder, batch)
    progress.step++
    const tokensPerSecond = (1000 * tokens) / (performance.now() - began)
    emit({ type: 'step', stage, step: progress.step, totalSteps, loss, gradNorm, learningRate, tokensPerSecond })
  }

  function record(result: Evaluation | undefined): void {
    if (!result) return
    if (!Number.isFinite(result.loss)) throw notANumber(`the held-out loss after step ${progress.step}`, folder)
    emit({ type: 'evaluation', stage, step: progress.step, ...result })
    progress.evaluatedStep = progress.step
    if (progress.best && result.loss >= progress.best.loss) {
      progress.evaluationsSinceBest++
      return
    }
    if (isFirst(group)) saveParameters(path.join(folder, bestFile), parameters)
    progress.best = { step: progress.step, loss: result.loss }
    progress.evaluationsSinceBest = 0
  }
}

/** What to tell of micro-batches that processes cannot divide evenly. */
function unevenness({ microBatchesPerBatch }: BatchStream, { size }: Group): string[] {
  if (microBatchesPerBatch % size === 0) return []
  return [
    `a step's ${microBatchesPerBatch} micro-batches cannot be divided evenly among ${size} processes: some wait for others`,
  ]
}

/** Whether the evaluation after the current step is still to be made; an abort may have come between. */
const isDue = ({ step, evaluatedStep }: Progress, every: number, totalSteps: number) =>
  step > 0 && step !== evaluatedStep && (step === totalSteps || step % every === 0)

const isStale = ({ evaluationsSinceBest }: Progress, patience: number | undefined) =>
  patience !== undefined && evaluationsSinceBest >= patience

function notANumber(what: string, folder: string, batch?: Batch): RunError {
  const [checkpoint] = checkpointsIn(folder)
  return new RunError('E_NAN_LOSS', `${what} is not a number`, {
    file: checkpoint ?? folder,
    ...(batch && { found: `examples ${batch.examples.join(', ')} of epoch ${batch.epoch}` }),
    remedy: checkpoint
      ? 'look at the examples, lower the learning rate, and go on from that checkpoint with resume and forceResume'
      : 'look at the examples, lower the learning rate, and start again',
  })
}
