import { isolated } from '../lib/isolated.mjs'
import { measureSteps } from '../lib/training.mjs'

export { measureSteps }

export const description = 'What QLoRA steps cost as sequences, micro-batches and ranks grow; bench:chart draws it'

/** What is varied, and what it is varied at. */
const axes = {
  cuda: [
    {
      fixed: { model: 'llama-8b', microBatchSize: 1, rank: 16 },
      sequenceLength: [512, 1024, 2048, 4096, 8192, 16384, 32768],
    },
    { fixed: { model: 'llama-8b', sequenceLength: 512, rank: 16 }, microBatchSize: [1, 2, 4, 8, 16] },
    { fixed: { model: 'llama-8b', microBatchSize: 4, sequenceLength: 512 }, rank: [8, 16, 32, 64] },
  ],
  cpu: [
    { fixed: { model: 'tiny', microBatchSize: 1, rank: 8 }, sequenceLength: [32, 64, 128] },
    { fixed: { model: 'tiny', sequenceLength: 32, rank: 8 }, microBatchSize: [1, 2, 4] },
    { fixed: { model: 'tiny', microBatchSize: 4, sequenceLength: 32 }, rank: [4, 8, 16] },
  ],
}

/** @returns {{ along: string, cases: object[] }[]} the cases by what is varied; one may stand on several axes */
export const axesFor = ({ kind }) =>
  axes[kind].map(({ fixed, ...varied }) => {
    const [[along, values]] = Object.entries(varied)
    return { along, cases: values.map((value) => named({ ...fixed, [along]: value })) }
  })

function named({ model, microBatchSize, sequenceLength, rank }) {
  const name = `scaling-${model}-${microBatchSize}x${sequenceLength}-r${rank}`
  return { case: name, model, microBatchSize, sequenceLength, rank }
}

export function casesFor(device) {
  const cases = axesFor(device).flatMap((axis) => axis.cases)
  return [...new Map(cases.map((options) => [options.case, options])).values()]
}

export async function* run(cases, { device }) {
  for (const options of cases) {
    const measured = await isolated(import.meta.url, 'measureSteps', { ...options, samples: 3, device: device.kind })
    yield { ...options, ...measured }
  }
}
