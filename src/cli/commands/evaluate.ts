import * as api from '../../api/stages.ts'
import { evaluateCommandOptions } from '../../options.ts'
import { command } from '../command.ts'
import { table } from '../output.ts'
import { abortOnSignal } from '../signals.ts'

export const evaluate = command({
  name: 'evaluate',
  description: 'Perplexity of a model, with or without an adapter, on data',
  options: evaluateCommandOptions,
  run: (options) => api.evaluate({ ...options, signal: abortOnSignal() }),
  show: ({ perplexity, loss, tokens, targets }) =>
    table([
      ['perplexity', perplexity.toFixed(4)],
      ['loss', `${loss.toFixed(6)} nats`],
      ['tokens', `${tokens}, ${targets} of them predicted`],
    ]),
})
