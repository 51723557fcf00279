import { kindOf, refuse, stringOf } from '../../data/conversations.ts'
import { type Example, ignoredTarget } from '../../data/encode.ts'
import type { DataRecord } from '../../data/records.ts'
import { bosIds } from '../../tokenizer/segments.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import type { StopSignal } from '../../worker/protocol.ts'
import type { LoadedModel } from '../loadedModel.ts'
import { exampleLosses } from '../perplexity.ts'
import { type Answer, type Ask, shotsText, type TaskOptions, type TaskSizes, tooLong } from './task.ts'

/** `{ prompt, choices, answer }`; `answer` is the place of the right choice, from 0. */
interface ChoiceQuestion {
  prompt: string
  choices: string[]
  answer: number
}

/** Takes the choice that is the likeliest continuation of the prompt, as benchmarks do (acc), also by character (acc_norm). */
export async function multipleChoice(
  { model, tokenizer }: LoadedModel,
  task: TaskOptions,
  sizes: TaskSizes,
): Promise<Ask> {
  const shots = await shotsText(task, (record) => {
    const { prompt, choices, answer } = choiceQuestion(record)
    return continued(prompt, choices[answer]!)
  })
  const ask = (record: DataRecord, signal: StopSignal): Answer => {
    const { prompt, choices, answer } = choiceQuestion(record)
    const examples = choices.map((choice) => continuation(tokenizer, shots + prompt, choice))
    const longest = Math.max(...examples.map(({ ids }) => ids.length))
    if (longest > sizes.sequenceLength) {
      const headline = 'the question and one of its choices are too long'
      tooLong(record, sizes.sequenceLength, { headline, found: `${longest}`, lowered: 'task.shotCount' })
    }
    const losses = exampleLosses(model, examples, sizes, signal)
    const chosen = indexOfLeast(losses)
    const normalized = indexOfLeast(losses.map((loss, i) => loss / [...choices[i]!].length))
    return { right: chosen === answer, rightNormalized: normalized === answer, chosen, expected: answer, losses }
  }
  return (records, signal) => records.map((record) => ask(record, signal))
}

function choiceQuestion(record: DataRecord): ChoiceQuestion {
  const { choices, answer } = record.value
  if (!Array.isArray(choices) || choices.length < 2 || choices.includes('')) {
    const expected = 'a list of two texts or more, none empty'
    return refuse(record, 'it has no choices', { field: 'choices', expected, found: kindOf(choices) })
  }
  if (typeof answer !== 'number' || !Number.isInteger(answer) || !(answer in choices)) {
    const expected = `an integer from 0 to ${choices.length - 1}`
    return refuse(record, 'its answer is none of its choices', {
      field: 'answer',
      expected,
      found: JSON.stringify(answer) ?? 'nothing',
    })
  }
  const texts = choices.map((choice, i) => stringOf(record, `choices[${i}]`, choice))
  return { prompt: stringOf(record, 'prompt'), choices: texts, answer }
}

/** An example in which only `choice` is predicted. Tokens are divided where lm-evaluation-harness divides them. */
export function continuation(tokenizer: Tokenizer, prompt: string, choice: string): Example {
  const bos = bosIds(tokenizer)
  const first = Math.max(1, bos.length + tokenizer.encode(prompt.trimEnd()).length)
  const ids = Int32Array.from([...bos, ...tokenizer.encode(continued(prompt, choice))])
  const targets = ids.map((_, i) => (i + 1 >= first && i + 1 < ids.length ? ids[i + 1]! : ignoredTarget))
  return { ids, targets }
}

/** A space stands between a prompt and its continuation, unless the prompt ends with white space of its own. */
const continued = (prompt: string, choice: string) => prompt + (/\s$|^$/.test(prompt) ? '' : ' ') + choice

const indexOfLeast = (values: readonly number[]) => values.indexOf(Math.min(...values))
