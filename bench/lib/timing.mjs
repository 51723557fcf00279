import { addon } from '../../dist/native/load.js'
import { clocks } from './machine.mjs'

/**
 * Milliseconds that a sample of short calls lasts at least: a clock's tick and the wait at its end no longer matter. Many calls
 * keep the GPU busy throughout, since they are queued faster than they are done.
 */
const shortest = 20

/** Samples that are counted, and those before them that are not: they find the GPU cooler than it is later. */
export const counted = 7
export const notCounted = 2

/**
 * Times `work` on `device`: two runs that are not counted, then `samples` that are, each ended by an idle device.
 * @param {() => void} work one call
 * @returns of one call: the median, and the median deviation from it; and the GPU's clocks
 */
export const time = (work, device, { samples = counted } = {}) => timed(sampler(work, device, 1), device, samples)

/** {@link time} with as many calls a sample as last long enough. */
export const timeShort = (work, device) => timed(shortSampler(work, device, 1), device, counted)

function timed(sample, device, samples) {
  const times = Array.from({ length: notCounted + samples }, sample)
  return { ...spreadOf(times.slice(notCounted)), ...clocks(device) }
}

/** What gives the milliseconds of a call, over as many as last long enough, a multiple of `multiple`; two runs are behind it. */
export function shortSampler(work, device, multiple) {
  const run = sampler(work, device, multiple)
  run()
  const calls = multiple * Math.max(1, Math.ceil(shortest / (run() * multiple)))
  return sampler(work, device, calls)
}

function sampler(work, device, calls) {
  return () => {
    const began = performance.now()
    for (let i = 0; i < calls; i++) work()
    if (device.kind === 'cuda') addon().synchronize()
    return (performance.now() - began) / calls
  }
}

/** The median of times, the median absolute deviation from it, and how many there were. */
export function spreadOf(times) {
  const milliseconds = median(times)
  const spread = median(times.map((value) => Math.abs(value - milliseconds)))
  return { milliseconds, spread, samples: times.length }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
