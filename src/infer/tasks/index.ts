import { writeFileSync } from 'node:fs'
import { ConfigError } from '../../errors.ts'
import { writing } from '../../formats/disk.ts'
import type { StopSignal } from '../../worker/protocol.ts'
import type { EvaluationOptions, LoadedModel } from '../loadedModel.ts'
import { code } from './code.ts'
import { exactMatch } from './exactMatch.ts'
import { multipleChoice } from './multipleChoice.ts'
import { type Answer, firstRecords, type TaskOptions, type TaskSizes } from './task.ts'

export interface TaskScore {
  kind: TaskOptions['kind']
  questions: number
  /** Share of the questions that were answered right. */
  accuracy: number
  /** Of multiple-choice: the same, with the likelihood of a choice divided by its number of characters. */
  normalizedAccuracy?: number
  /** Of `accuracy`, as lm-evaluation-harness has it: the questions' standard deviation over the root of their number. */
  standardError: number
}

const asking = { 'exact-match': exactMatch, 'multiple-choice': multipleChoice, code }

/** Options that only some kinds of task have. */
const ownOptions: Partial<Record<keyof TaskOptions, readonly TaskOptions['kind'][]>> = {
  shots: ['exact-match', 'multiple-choice'],
  answer: ['exact-match'],
  stop: ['exact-match', 'code'],
  maxNewTokens: ['exact-match', 'code'],
  runCode: ['code'],
}

/**
 * Puts questions to a model and counts the right answers.
 * @throws {ConfigError} `E_CONFIG`: an option does not belong to this kind of task
 */
export async function scoreTask(
  loaded: LoadedModel,
  task: TaskOptions,
  { data, format, limit, ...sizes }: EvaluationOptions,
  signal: StopSignal,
): Promise<TaskScore> {
  checkOptions(task, format)
  const records = await firstRecords(data, limit)
  const ask = await asking[task.kind](loaded, task, { format, ...sizes })
  const answers = await ask(records, signal)
  const { predictions } = task
  if (predictions !== undefined) {
    const lines = answers.map(
      (answer, i) => `${JSON.stringify({ file: records[i]!.file, line: records[i]!.line, ...answer })}\n`,
    )
    writing(predictions, () => writeFileSync(predictions, lines.join('')))
  }
  return { kind: task.kind, ...count(answers) }
}

function checkOptions(task: TaskOptions, format: TaskSizes['format']): void {
  if (format !== 'auto' && task.kind !== 'exact-match') {
    throw new ConfigError('E_CONFIG', `${task.kind} has a format of its own`, {
      field: 'format',
      found: format,
      remedy: 'leave it out',
    })
  }
  for (const [option, kinds] of Object.entries(ownOptions)) {
    if (task[option as keyof TaskOptions] === undefined || kinds.includes(task.kind)) continue
    throw new ConfigError('E_CONFIG', `task.${option} does not belong to ${task.kind}`, {
      field: `task.${option}`,
      expected: `task.kind ${kinds.join(' or ')}`,
      found: task.kind,
      remedy: 'leave it out',
    })
  }
  if (task.shotCount !== undefined && task.shots === undefined) {
    throw new ConfigError('E_CONFIG', 'there are no shots to count', {
      field: 'task.shotCount',
      remedy: 'give task.shots',
    })
  }
  if (task.kind === 'code' && !task.runCode) {
    throw new ConfigError('E_CONFIG', 'code is scored by running it', {
      field: 'task.runCode',
      expected: 'true',
      remedy: 'give it where you accept that what the model writes runs on this machine, limited but in no sandbox',
    })
  }
}

function count(answers: readonly Answer[]): Omit<TaskScore, 'kind'> {
  const questions = answers.length
  const share = (isRight: (answer: Answer) => boolean | undefined) => answers.filter(isRight).length / questions
  const accuracy = share(({ right }) => right)
  const isNormalized = answers[0]!.rightNormalized !== undefined
  return {
    questions,
    accuracy,
    ...(isNormalized && { normalizedAccuracy: share(({ rightNormalized }) => rightNormalized) }),
    standardError: Math.sqrt((accuracy * (1 - accuracy)) / Math.max(1, questions - 1)),
  }
}
