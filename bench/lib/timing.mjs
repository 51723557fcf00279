import { addon } from '../../dist/native/load.js'
import { clocks } from './machine.mjs'

/** Milliseconds that a sample of short calls lasts at least: a clock's tick and the wait at its end no longer matter. */
const shortest = 20

/**
 * Times `work` on `device`: two runs that are not counted, then `samples` that are, each of `calls` calls and ended by an idle
 * device. On the GPU a run of many calls keeps it busy throughout, since calls are queued faster than they are done.
 * @param {() => void} work one call
 * @returns of one call: the median, and the median deviation from it; and the GPU's clocks
 */
export function time(work, device, { samples = 7, calls = 1 } = {}) {
  const run = sampler(work, device, calls)
  run()
  run()
  return { ...spreadOf(Array.from({ length: samples }, run)), ...clocks(device) }
}

/** {@link time} with as many calls a sample as last long enough, a multiple of `multiple`. */
export function timeShort(work, device, multiple) {
  const run = sampler(work, device, multiple)
  run()
  const calls = multiple * Math.max(1, Math.ceil(shortest / (run() * multiple)))
  return time(work, device, { calls })
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
