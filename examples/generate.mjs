// A model with an adapter, which stays unmerged:  node examples/generate.mjs [adapter]
import { loadModel } from 'loram'

const [adapter] = process.argv.slice(2)
const model = await loadModel('demo/model', adapter ? { adapter } : {})
try {
  for await (const text of model.generate('write kdaf backwards. ', { maxNewTokens: 8 })) process.stdout.write(text)
  console.log()

  const { tokenIds, tokensPerSecond } = await model.complete('how much is 38+5 ? ', { maxNewTokens: 8 })
  console.log(`${tokenIds.length} tokens, ${tokensPerSecond.toFixed(0)} a second`)

  const { perplexity, targets } = await model.evaluate({ data: 'demo/data/test.jsonl', sequenceLength: 64 })
  console.log(`perplexity ${perplexity.toFixed(3)} over ${targets} tokens of answers`)
} finally {
  await model.close()
}
