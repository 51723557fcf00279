import { isolated } from '../lib/isolated.mjs'
import { measureSteps } from '../lib/training.mjs'

export { measureSteps }

export const description = 'What QLoRA steps cost as sequences, micro-batches and ranks grow; bench/chart.mjs draws it'

/** What one axis varies, all else being as in `base`. */
const axes = {
  cuda: {
    base: { model: 'llama-8b', microBatchSize: 4, sequenceLength: 512, rank: 16 },
    sequenceLength: [512, 1024, 2048, 4096, 8192, 16384, 32768],
    microBatchSize: [1, 2, 4, 8, 16],
    rank: [8, 16, 32, 64],
  },
  cpu: {
    base: { model: 'tiny', microBatchSize: 4, sequenceLength: 32, rank: 8 },
    sequenceLength: [32, 64, 128],
    microBatchSize: [1, 2, 4],
    rank: [4, 8, 16],
  },
}

/** Sequence lengths are those of one sequence in the micro-batch. */
export function casesFor({ kind }) {
  const { base, ...varied } = axes[kind]
  return Object.entries(varied).flatMap(([axis, values]) =>
    values.map((value) => {
      const options = { ...base, ...(axis === 'sequenceLength' && { microBatchSize: 1 }), [axis]: value }
      const { model, microBatchSize, sequenceLength, rank } = options
      return { case: `scaling-${model}-${microBatchSize}x${sequenceLength}-r${rank}`, axis, ...options }
    }),
  )
}

export async function* run(cases, { device }) {
  for (const options of cases) {
    const measured = await isolated(import.meta.url, 'measureSteps', { ...options, samples: 3, device: device.kind })
    yield { ...options, ...measured }
  }
}
