import * as api from '../../api/stages.ts'
import { evaluateCommandOptions } from '../../options.ts'
import { command } from '../command.ts'
import { notice, table } from '../output.ts'
import { abortOnSignal } from '../signals.ts'

export const evaluate = command({
  name: 'evaluate',
  description: 'Perplexity of a model, with or without an adapter, on data',
  options: evaluateCommandOptions,
  run: (options) => api.evaluate({ ...options, signal: abortOnSignal(notice) }),
  show: ({ perplexity, loss, tokens, targets }) =>
    table([
      ['perplexity', perplexity.toFixed(4)],
      ['loss', `${loss.toFixed(6)} nats`],
      ['tokens', `${tokens}, ${targets} of them predicted`],
    ]),
})
