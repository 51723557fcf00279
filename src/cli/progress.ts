import { SingleBar } from 'cli-progress'
import { Help } from 'commander'
import { formatBytes } from '../memory/bytes.ts'
import type { RunEvent, Stage } from '../train/events.ts'
import { describeRecompute } from '../train/recompute.ts'

type StepEvent = Extract<RunEvent, { type: 'step' }>

const lineWidth = 100
/** Between two lines about steps where there is no terminal. */
const plainIntervalMilliseconds = 5000

/**
 * Shows a run's events as they come: on a terminal a bar for every stage that has steps; in a pipe or in CI a line every few
 * seconds. Whoever makes one calls `done` at the end, also after an error.
 */
export class ProgressDisplay {
  private readonly stream: NodeJS.WriteStream
  private bar: SingleBar | undefined
  private stageBegan = performance.now()
  private firstStep: number | undefined
  private lastLine = Number.NEGATIVE_INFINITY

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.stream = stream
  }

  event(event: RunEvent): void {
    // Checkpoints come every few steps and interest only who resumes
    if (event.type === 'notice') this.notice(event.message)
    else if (event.type === 'plan') this.notice(describePlan(event.plan))
    else if (event.type === 'stage') this.stage(event.stage, event.status)
    else if (event.type === 'step') this.step(event)
    else if (event.type === 'evaluation') this.notice(describeEvaluation(event))
  }

  /** Takes the bar away. */
  done(): void {
    this.bar?.stop()
    this.bar = undefined
  }

  private stage(stage: Stage, status: 'started' | 'finished' | 'reused'): void {
    const seconds = (performance.now() - this.stageBegan) / 1000
    this.notice(status === 'finished' ? `${stage}: finished in ${duration(seconds)}` : `${stage}: ${status}`)
    this.stageBegan = performance.now()
    this.firstStep = undefined
    this.lastLine = Number.NEGATIVE_INFINITY
  }

  private step(event: StepEvent): void {
    this.firstStep ??= event.step
    const text = describeStep(event, this.secondsLeft(event, this.firstStep))
    if (this.isTerminal) {
      if (this.bar) this.bar.update(event.step, { text })
      else this.bar = this.startBar(event, text)
      return
    }
    const now = performance.now()
    if (now - this.lastLine < plainIntervalMilliseconds && event.step < event.totalSteps) return
    this.lastLine = now
    this.notice(`${event.stage} ${event.step}/${event.totalSteps}  ${text}`)
  }

  private secondsLeft({ step, totalSteps }: StepEvent, firstStep: number): number {
    const secondsPerStep = (performance.now() - this.stageBegan) / 1000 / (step - firstStep + 1)
    return secondsPerStep * (totalSteps - step)
  }

  private startBar({ stage, step, totalSteps }: StepEvent, text: string): SingleBar {
    const bar = new SingleBar({
      stream: this.stream,
      format: `${stage} {bar} {value}/{total}  {text}`,
      barsize: Math.max(5, Math.min(this.stream.columns, lineWidth) - 75),
      clearOnComplete: true,
      linewrap: true, // otherwise a killed process leaves the terminal without
    })
    bar.start(totalSteps, step, { text })
    return bar
  }

  private get isTerminal(): boolean {
    return this.stream.isTTY && !process.env.CI
  }

  /** Writes a line for people. The bar, if there is one, starts anew below the line with the next step. */
  notice(text: string): void {
    this.done()
    this.stream.write(`${new Help().boxWrap(text, lineWidth)}\n`)
  }
}

function describePlan({
  parameters,
  bytes,
  recompute,
  quantizeTables,
}: Extract<RunEvent, { type: 'plan' }>['plan']): string {
  const weights = bytes.tables + bytes.projections + bytes.norms
  return [
    `${parameters.adapter} parameters on a model of ${parameters.trained}`,
    `${formatBytes(bytes.total)}: ${formatBytes(weights)} of weights${quantizeTables ? ' (embedding and head in NF4)' : ''}`,
    `${formatBytes(bytes.adapter)} for the adapter`,
    `${formatBytes(bytes.activations)} of activations (recompute: ${describeRecompute(recompute)})`,
    ...(bytes.host > 0 ? [`${formatBytes(bytes.host)} of host memory`] : []),
  ].join(', ')
}

function describeEvaluation({ stage, perplexity, step }: Extract<RunEvent, { type: 'evaluation' }>): string {
  return `${stage}: perplexity ${perplexity.toFixed(4)} after step ${step}`
}

function describeStep({ loss, tokensPerSecond }: StepEvent, secondsLeft: number): string {
  const speed = tokensPerSecond.toPrecision(3)
  return `loss ${loss.toFixed(4)}  ${Number(speed)} tokens/s  ETA ${duration(secondsLeft)}`
}

/** "12 s", "3 min 20 s", "5 h 12 min" */
export function duration(seconds: number): string {
  const whole = Math.round(seconds)
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60]
  if (hours > 0) return `${hours} h ${minutes} min`
  return minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`
}
