import { trainLoRAM } from '../../api/trainLoRAM.ts'
import { trainLoRAMOptions } from '../../options/index.ts'
import { command } from '../command.ts'
import { printJson } from '../output.ts'
import { abortOnSignal } from '../signals.ts'

export const train = command({
  name: 'train',
  description: 'Prune, align, train and recover: from a model and data to an adapter for the model',
  options: trainLoRAMOptions,
  takesConfigFile: true,
  async run(options, json) {
    const { ProgressDisplay } = await import('../progress.ts')
    const progress = new ProgressDisplay()
    const signal = abortOnSignal((message) => progress.notice(message))
    const run = trainLoRAM({ ...options, signal })
    try {
      for await (const event of run) {
        progress.event(event)
        if (json) printJson(event)
      }
      return await run
    } finally {
      progress.done()
    }
  },
  show: ({ adapter, metrics: { steps, evaluation, seconds } }) =>
    [
      `wrote ${adapter} after ${steps} steps in ${Math.round(seconds)} s`,
      ...(evaluation ? [`perplexity ${evaluation.perplexity.toFixed(4)} at step ${evaluation.step}`] : []),
    ].join('\n'),
})
