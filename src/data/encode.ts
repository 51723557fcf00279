import type { Run } from '../tokenizer/segments.ts'

/** The target of a position that learns nothing. */
export const ignoredTarget = -100

/** Which tokens are learnt: all answers, each conversation's last one, or everything. */
export type TrainOn = 'answers' | 'last-answer' | 'all'

/** One sequence. `targets[i]` is the token that position `i` must predict, `ids[i + 1]`, or `ignoredTarget`. */
export interface Example {
  ids: Int32Array
  targets: Int32Array
}

/** Examples that are read one at a time. */
export interface Examples extends Iterable<Example> {
  readonly length: number
  at(index: number): Example
  /** The length of one, without reading it. */
  tokens(index: number): number
}

/** At most `limit` of them, from the start. */
export function* firstOf(examples: Examples, limit = examples.length): Generator<Example> {
  for (let i = 0; i < Math.min(limit, examples.length); i++) yield examples.at(i)
}

/** An example of the first `sequenceLength` tokens of `runs`. */
export function makeExample(runs: readonly Run[], trainOn: TrainOn, sequenceLength: number): Example {
  const length = Math.min(
    runs.reduce((sum, { ids }) => sum + ids.length, 0),
    sequenceLength,
  )
  const ids = new Int32Array(length)
  const targets = new Int32Array(length).fill(ignoredTarget)
  const lastAnswer = runs.findLastIndex(({ learnt }) => learnt)
  let at = 0
  runs.forEach((run, i) => {
    const learnt = { answers: run.learnt, 'last-answer': i === lastAnswer, all: true }[trainOn]
    const kept = run.ids.slice(0, length - at)
    ids.set(kept, at)
    // the first token of a sequence is predicted from nothing
    if (learnt) targets.set(at === 0 ? kept.slice(1) : kept, Math.max(at - 1, 0))
    at += kept.length
  })
  return { ids, targets }
}

export function countTargets(targets: Int32Array): number {
  return targets.reduce((count, target) => count + (target === ignoredTarget ? 0 : 1), 0)
}
