import { countTargets, type Example } from './encode.ts'

/** What loading a data set came to. */
export interface DataStatistics {
  examples: number
  tokens: number
  /** Tokens that are learnt. */
  targets: number
  /** Examples that were longer than `sequenceLength`, and the tokens they lost by it. */
  truncated: number
  truncatedTokens: number
  /** Examples whose answers hold no text, so that they teach only to end. */
  empty: number
  /** Records left out because nothing of them would be learnt, for example because the prompt alone is too long. */
  masked: number
  /** Records left out because an earlier one says the same. */
  duplicates: number
  /** Examples of all these that the split keeps for evaluation. */
  held: number
  /** Lines skipped under `onBadLine: 'skip'`. */
  badLines: number
}

export const noStatistics: DataStatistics = {
  ...{ examples: 0, tokens: 0, targets: 0, truncated: 0, truncatedTokens: 0 },
  ...{ empty: 0, masked: 0, duplicates: 0, held: 0, badLines: 0 },
}

/** Counts an example; false for one that teaches nothing. */
export function count(statistics: DataStatistics, { ids, targets }: Example): boolean {
  const learnt = countTargets(targets)
  if (learnt === 0) {
    statistics.masked++
    return false
  }
  statistics.examples++
  statistics.tokens += ids.length
  statistics.targets += learnt
  return true
}

/** Counts for people, what is out of the ordinary only where it occurs. */
export function describeStatistics(statistics: DataStatistics): string {
  const { examples, targets, tokens, truncated, truncatedTokens, empty, masked, duplicates, held, badLines } =
    statistics
  const others = {
    'held out': held,
    [`truncated, which lost ${truncatedTokens} tokens`]: truncated,
    'with an empty answer': empty,
    'left out with nothing to learn': masked,
    duplicates,
    'bad lines': badLines,
  }
  return [
    `${examples} examples, ${targets} of ${tokens} tokens are learnt`,
    ...Object.entries(others).flatMap(([what, amount]) => (amount > 0 ? [`${amount} ${what}`] : [])),
  ].join(', ')
}
