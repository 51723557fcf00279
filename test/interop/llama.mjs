// Runs a GGUF model, and an adapter where one is named, in llama.cpp through node-llama-cpp, which a folder of its own holds:
//   node llama.mjs FOLDER '{"model", "adapter"?, "prompts", "tokens"}'
// Prints for each prompt its token ids and the greedy ones that follow.
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [, , folder, job] = process.argv
const { model: modelPath, adapter, prompts, tokens } = JSON.parse(job)
const library = path.resolve(folder, 'node_modules/node-llama-cpp/dist/index.js')
const { getLlama } = await import(pathToFileURL(library).href)

const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' })
const model = await llama.loadModel({ modelPath })
const context = await model.createContext({
  contextSize: 256,
  threads: 1, // they spin: where there are more than processors to have, they hardly move
  // as exact as loram's cache
  experimentalKvCacheKeyType: 'F32',
  experimentalKvCacheValueType: 'F32',
  ...(adapter && { lora: { adapters: [{ filePath: adapter }] } }),
})
const sequence = context.getSequence()
const results = []
for (const prompt of prompts) {
  await sequence.clearHistory()
  const ids = model.tokenize(prompt)
  if (model.tokens.shouldPrependBosToken) ids.unshift(model.tokens.bos)
  const generated = []
  for await (const token of sequence.evaluate(ids, { temperature: 0 })) {
    if (model.isEogToken(token) || generated.push(token) === tokens) break
  }
  results.push({ prompt: [...ids], generated })
}
process.stdout.write(`${JSON.stringify(results)}\n`, () => process.exit(0))
