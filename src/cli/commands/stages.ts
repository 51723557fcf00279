import * as api from '../../api/stages.ts'
import type { MergeResult } from '../../lora/difference.ts'
import {
  alignCommandOptions,
  exportCommandOptions,
  mergeCommandOptions,
  pruneCommandOptions,
  recoverCommandOptions,
} from '../../options/index.ts'
import { command } from '../command.ts'
import { abortOnSignal } from '../signals.ts'

interface Written {
  output: string
}
const show = ({ output }: Written) => `wrote ${output}`

export const prune = command({
  name: 'prune',
  description: 'Cut a model down to a small one, with the pruning.json that recovery needs',
  options: pruneCommandOptions,
  async run(options): Promise<Written> {
    await api.prune(options)
    return { output: options.output }
  },
  show,
})

export const align = command({
  name: 'align',
  description: 'Continue the pre-training of a pruned model on running text',
  options: alignCommandOptions,
  async run(options): Promise<Written> {
    const { ProgressDisplay } = await import('../progress.ts')
    const progress = new ProgressDisplay()
    const signal = abortOnSignal((message) => progress.notice(message))
    try {
      await api.align({ ...options, signal, onEvent: (event) => progress.event(event) })
    } finally {
      progress.done()
    }
    return { output: options.output }
  },
  show,
})

export const recover = command({
  name: 'recover',
  description: 'Bring an adapter trained on a pruned model to the dimensions of the original',
  options: recoverCommandOptions,
  async run(options): Promise<Written> {
    await api.recover(options)
    return { output: options.output }
  },
  show,
})

export const merge = command({
  name: 'merge',
  description: 'Write a model with an adapter merged into its weights',
  options: mergeCommandOptions,
  async run(options): Promise<Written & MergeResult> {
    return { output: options.output, ...(await api.merge(options)) }
  },
  show({ output, logitDifference: moved }) {
    if (!moved) return show({ output })
    const [mean, largest, adapter] = [moved.mean, moved.largest, moved.adapter].map((value) => value.toPrecision(3))
    return `${show({ output })}
logits of 64 random tokens are off by ${mean} on average and ${largest} at most; the adapter moves them by ${adapter} on average`
  },
})

export const exportModel = command({
  name: 'export',
  description: 'Write a model and an adapter as GGUF files for llama.cpp and Ollama',
  options: exportCommandOptions,
  async run(options): Promise<Written> {
    await api.exportModel(options)
    return { output: options.output }
  },
  show,
})
