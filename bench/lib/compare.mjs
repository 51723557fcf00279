import { labelOf, newest } from './results.mjs'

/** A median absolute deviation times this is the standard deviation of normally distributed samples. */
const deviations = 1.4826

/** Slower by more than so many standard deviations of the difference between two samples ... */
const sigmas = 3

/** ... and by more than this fraction, which clocks and other tenants move a median by from run to run. */
const leastSlowdown = 0.03

/** Noise hides no more than this fraction: samples so far apart do not show that nothing changed. */
const mostNoise = 0.5

/** Bytes are counted, not sampled: any growth is real, and only rounding is let through. */
const leastGrowth = 0.001

/**
 * How much longer than `before` a case may take before it is slower, in milliseconds.
 * @param {{ milliseconds: number, spread?: number }} before, after medians, and the median deviations from them
 */
export function noiseOf(before, after) {
  const measured = sigmas * deviations * Math.hypot(before.spread ?? 0, after.spread ?? 0)
  return before.milliseconds * Math.min(mostNoise, Math.max(measured / before.milliseconds, leastSlowdown))
}

/**
 * Every quantity that a result and its baseline both have.
 * @returns {{ what: string, before: number, after: number, allowed: number, worse: boolean }[]}
 */
export function compareCase(before, after) {
  const rows = [
    { what: 'time', field: 'milliseconds', allowed: noiseOf(before, after) },
    { what: 'memory', field: 'peakBytes', allowed: leastGrowth * before.peakBytes },
  ]
  return rows
    .filter(({ field }) => before[field] !== undefined && after[field] !== undefined)
    .map(({ what, field, allowed }) => {
      const [was, is] = [before[field], after[field]]
      return { what, before: was, after: is, allowed, worse: is - was > allowed }
    })
}

/**
 * Compares results with the newest lines of a baseline for the same cases on the same machine.
 * @returns a row for every quantity that both have, in the order of `results`
 */
export function compareResults(baseline, results) {
  const known = newest(baseline)
  return Array.from(newest(results), ([key, after]) => ({ after, before: known.get(key) }))
    .filter(({ before }) => before !== undefined)
    .flatMap(({ before, after }) => compareCase(before, after).map((row) => ({ case: labelOf(after), ...row })))
}

/** The comparison for people; `worse` rows are marked. */
export function formatComparison(rows) {
  const percent = (part, whole) => `${((100 * part) / whole).toFixed(1)} %`
  return Object.fromEntries(
    rows.map(({ case: name, what, before, after, allowed, worse }) => [
      `${name}, ${what}`,
      {
        baseline: quantity(what, before),
        now: quantity(what, after),
        change: percent(after - before, before),
        allowed: percent(allowed, before),
        verdict: worse ? 'WORSE' : 'ok',
      },
    ]),
  )
}

const quantity = (what, value) =>
  what === 'time' ? `${Number(value.toPrecision(4))} ms` : `${Number((value / 1e6).toPrecision(5))} MB`
