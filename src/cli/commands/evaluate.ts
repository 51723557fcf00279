import * as api from '../../api/stages.ts'
import type { DataEvaluation } from '../../infer/loadedModel.ts'
import type { TaskScore } from '../../infer/tasks/index.ts'
import { describeLoading } from '../../memory/bytes.ts'
import type { Loading } from '../../model/open.ts'
import { evaluateCommandOptions } from '../../options/index.ts'
import { command } from '../command.ts'
import { notice, table } from '../output.ts'
import { abortOnSignal } from '../signals.ts'

export const evaluate = command({
  name: 'evaluate',
  description: 'Perplexity of a model on data, or how many questions it answers right',
  options: evaluateCommandOptions,
  run: (options): Promise<(DataEvaluation | TaskScore) & { loading: Loading }> =>
    api.evaluate({ ...options, signal: abortOnSignal(notice) }),
  show: (result) =>
    table([
      ...('kind' in result ? scoreRows(result) : perplexityRows(result)),
      ['loaded', describeLoading(result.loading)],
    ]),
})

type Rows = (readonly [string, string])[]

const perplexityRows = ({ perplexity, loss, tokens, targets, truncated, masked }: DataEvaluation): Rows => [
  ['perplexity', perplexity.toFixed(4)],
  ['loss', `${loss.toFixed(6)} nats`],
  ['tokens', `${tokens}, ${targets} of them predicted`],
  ...(truncated === 0 ? [] : [['truncated', `${truncated} examples, to the sequence length`] as const]),
  ...(masked === 0 ? [] : [['left out', `${masked} records, of which nothing would be predicted`] as const]),
]

function scoreRows({ kind, questions, accuracy, normalizedAccuracy, standardError }: TaskScore): Rows {
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`
  return [
    ['task', `${kind}, ${questions} questions`],
    ['right', `${percent(accuracy)}, standard error ${percent(standardError)}`],
    ...(normalizedAccuracy === undefined ? [] : [['normalised by length', percent(normalizedAccuracy)] as const]),
  ]
}
