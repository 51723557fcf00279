// What training takes, before a weight is read:  node examples/plan.mjs [model]
import { MemoryError, plan } from 'loram'

const [model = 'demo/model'] = process.argv.slice(2)
const shape = { model, sequenceLength: 64, microBatchSize: 32 }

for (const ratio of [0, 0.5, 0.75]) {
  const { training } = plan({ ...shape, prune: { ratio, layers: [1, 5] } })
  const { parameters, bytes, reduction } = training
  console.log(
    `ratio ${ratio}: ${parameters.trained} parameters, ${reduction.toFixed(2)}x smaller, ` +
      `${bytes.total} bytes, ${bytes.activations} of them activations`,
  )
}

// With a budget, as many layers recompute as are needed, or the error says by how much it does not fit
try {
  console.log('with 64 MB: recompute', plan({ ...shape, memory: '64 MB' }).training.recompute)
  plan({ ...shape, memory: '16 MB' })
} catch (error) {
  if (!(error instanceof MemoryError)) throw error
  console.log(error.message)
}
