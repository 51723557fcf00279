import { writeFileAtomic } from '../formats/atomic.ts'
import { TfEventsWriter } from '../formats/tfEvents.ts'
import type { ResolvedOptions } from '../options/index.ts'
import type { RunEvent, Stage } from './events.ts'

/** Where the events of a run go, besides its caller and `events.jsonl`. */
export interface EventSink {
  /** @throws {RunError} `E_DISK` */
  write(event: RunEvent): void
  close(): void
}

/** @param folder for TensorBoard's files */
export function openSinks({ log, output }: Pick<ResolvedOptions, 'log' | 'output'>, folder: string): EventSink[] {
  return [
    ...(log.tensorboard ? [tensorBoardSink(folder)] : []),
    ...(log.prometheus === undefined ? [] : [prometheusSink(log.prometheus, output)]),
  ]
}

/** What a chart is drawn of, by TensorBoard's tags. */
function scalarsOf(event: RunEvent): Record<string, number> | undefined {
  if (event.type === 'step') {
    const { loss, gradNorm, learningRate, tokensPerSecond } = event
    return { loss, gradient_norm: gradNorm, learning_rate: learningRate, tokens_per_second: tokensPerSecond }
  }
  if (event.type === 'evaluation') return { 'evaluation/loss': event.loss, 'evaluation/perplexity': event.perplexity }
  return undefined
}

/** Each stage is a run of TensorBoard's, in a folder of its own: steps count from 1 in each. */
function tensorBoardSink(folder: string): EventSink {
  const writers = new Map<Stage, TfEventsWriter>()
  return {
    write(event) {
      const scalars = scalarsOf(event)
      if (!scalars || !('step' in event)) return
      const { stage, step } = event
      const writer = writers.get(stage) ?? new TfEventsWriter(`${folder}/${stage}`, step)
      writers.set(stage, writer)
      writer.scalars(step, scalars)
    },
    close() {
      for (const writer of writers.values()) writer.close()
    },
  }
}

const help = {
  step: 'Optimizer steps done',
  total_steps: 'Optimizer steps to do',
  loss: 'Mean loss of the last step, in nats a token',
  gradient_norm: 'Norm of all gradients of the last step, before clipping',
  learning_rate: 'Learning rate of the last step',
  tokens_per_second: 'Tokens that the last step trained on in a second',
  evaluation_loss: 'Mean loss on the evaluation data, in nats a token',
  planned_memory_bytes: 'Memory of training, by part',
  last_event_timestamp_seconds: 'When the run last reported something',
  running: '1 while the run works',
}
type Metric = keyof typeof help

const writeIntervalMilliseconds = 1000

/**
 * Keeps a file in Prometheus' text format for node_exporter's textfile collector. A port to scrape would have to be served by
 * the thread that trains, which does not answer during a step; prom-client needs promises, which wait for it as well.
 */
function prometheusSink(file: string, output: string): EventSink {
  const values = new Map<Metric, Map<string, number>>()
  let written = 0
  const set = (metric: Metric, value: number, labels: Record<string, string> = {}) => {
    const series = values.get(metric) ?? new Map<string, number>()
    values.set(metric, series.set(labelsOf({ run: output, ...labels }), value))
  }
  const save = () => {
    written = Date.now()
    writeFileAtomic(file, formatMetrics(values))
  }
  return {
    write(event) {
      set('running', 1)
      set('last_event_timestamp_seconds', Date.now() / 1000)
      if (event.type === 'plan') {
        const { total: _, ...parts } = event.plan.bytes
        for (const [part, bytes] of Object.entries(parts)) set('planned_memory_bytes', bytes, { part })
      } else if (event.type === 'step') {
        const { stage, step, totalSteps } = event
        const scalars = { step, total_steps: totalSteps, ...scalarsOf(event) }
        for (const [metric, value] of Object.entries(scalars)) set(metric as Metric, value, { stage })
      } else if (event.type === 'evaluation') set('evaluation_loss', event.loss, { stage: event.stage })
      if (Date.now() - written >= writeIntervalMilliseconds) save()
    },
    close() {
      set('running', 0)
      save()
    },
  }
}

function formatMetrics(values: ReadonlyMap<Metric, ReadonlyMap<string, number>>): string {
  const lines = Array.from(values, ([metric, series]) => [
    `# HELP loram_${metric} ${help[metric]}`,
    `# TYPE loram_${metric} gauge`,
    ...Array.from(series, ([labels, value]) => `loram_${metric}${labels} ${value}`),
  ])
  return `${lines.flat().join('\n')}\n`
}

function labelsOf(labels: Record<string, string>): string {
  const escaped = (value: string) => value.replace(/["\\]/g, '\\$&').replaceAll('\n', '\\n')
  return `{${Object.entries(labels)
    .map(([name, value]) => `${name}="${escaped(value)}"`)
    .join(',')}}`
}
