import { addon } from '../../dist/native/load.js'
import { clocks } from './machine.mjs'

/** So much work is timed at a time where one call is shorter: a clock's tick and a queue's length no longer matter. */
const shortest = 20

/**
 * Times `work` on `device`: two runs that are not counted, then `samples` that are, each ended by an idle device. On the GPU
 * a run of several calls keeps it busy throughout, since calls are queued faster than they are done.
 * @param {() => void} work one call
 * @returns {{ milliseconds: number, spread: number, samples: number }} of one call: the median, and the median distance from it
 */
export function time(work, device, { samples = 7, calls = 1 } = {}) {
  const run = () => {
    const began = performance.now()
    for (let i = 0; i < calls; i++) work()
    if (device.kind === 'cuda') addon().synchronize()
    return (performance.now() - began) / calls
  }
  run()
  run()
  const times = Array.from({ length: samples }, run)
  return { ...spreadOf(times), samples, ...clocks(device) }
}

/** {@link time} with as many calls a sample as last long enough, a multiple of `multiple`. */
export function timeShort(work, device, multiple) {
  const { milliseconds } = time(work, device, { samples: 1, calls: multiple })
  const calls = multiple * Math.max(1, Math.ceil(shortest / (milliseconds * multiple)))
  return time(work, device, { calls })
}

/** The median, and the median absolute deviation from it. */
export function spreadOf(values) {
  const milliseconds = median(values)
  return { milliseconds, spread: median(values.map((value) => Math.abs(value - milliseconds))) }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
