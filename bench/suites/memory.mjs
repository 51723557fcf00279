import { isolated } from '../lib/isolated.mjs'
import { measureMemory, policies } from '../lib/training.mjs'

export { measureMemory }

export const description = 'Planned bytes of QLoRA steps beside those measured: by the allocator, and by nvidia-smi'

const shapes = {
  cuda: [
    { name: '8b', model: 'llama-8b', microBatchSize: 2, sequenceLength: 2048, rank: 16 },
    { name: '70b', model: 'llama-70b', pruned: 0.85, microBatchSize: 4, sequenceLength: 512, rank: 8 },
  ],
  cpu: [{ name: 'tiny', model: 'tiny', pruned: 0.5, microBatchSize: 2, sequenceLength: 64, rank: 4 }],
}

/** How far what is measured may be from the plan. The driver rounds allocations up, which our own count does not see. */
const allowed = { peakBytes: 0.01, processBytes: 0.05 }

/** Every policy of the planner at every shape. */
export const casesFor = ({ kind }) =>
  shapes[kind].flatMap(({ name, ...shape }) =>
    policies.map((recompute) => ({ case: `memory-${name}-${recompute}`, ...shape, recompute })),
  )

export async function* run(cases, { device }) {
  for (const options of cases) {
    const bytes = await isolated(import.meta.url, 'measureMemory', { ...options, device: device.kind })
    const failures = Object.keys(allowed).flatMap((name) => {
      if (bytes[name] === undefined) return []
      const off = bytes[name] / bytes.plannedBytes - 1
      return Math.abs(off) <= allowed[name] ? [] : [`${name} is ${(100 * off).toFixed(1)} % off the plan`]
    })
    yield { case: options.case, ...bytes, ...(failures.length && { failure: failures.join('; ') }) }
  }
}
