#!/usr/bin/env node
// A load test of the server: many clients at once on loopback, each with one request after another.
//   npm run bench:serve -- MODEL_DIR [name=ADAPTER_DIR]
// Prints times to the first token and to the end, and how many tokens a second all clients get together; appends a JSON
// line for each number of clients to bench/results/serve.jsonl.
import { execFileSync } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import os from 'node:os'
import { fileURLToPath } from 'node:url'
import { serve } from '../dist/index.js'
import { addon } from '../dist/native/load.js'

const [model, adapter] = process.argv.slice(2)
if (!model) {
  console.error('usage: npm run bench:serve -- MODEL_DIR [name=ADAPTER_DIR]')
  process.exit(2)
}
const maxTokens = 32
const prompt = 'The quick brown fox jumps over the lazy dog, and '

const server = await serve({ model, port: 0, device: 'cpu', maxQueue: 256, ...(adapter && { adapter: [adapter] }) })
await load(1, 4) // not counted
const rows = []
for (const clients of [1, 8, 32]) rows.push(await load(clients, 16 + 4 * clients))
await server.close()
console.table(rows)
const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim()
const machine = { cpu: os.cpus()[0].model, threads: addon().threads(), commit, date: new Date().toISOString() }
const lines = rows.map((row) => `${JSON.stringify({ ...row, model, maxTokens, ...machine })}\n`)
appendFileSync(fileURLToPath(new URL('results/serve.jsonl', import.meta.url)), lines.join(''))

async function load(clients, total) {
  const began = performance.now()
  let next = 0
  const answers = []
  const client = async () => {
    while (next < total) answers.push(await complete(next++))
  }
  await Promise.all(Array.from({ length: clients }, client))
  const seconds = (performance.now() - began) / 1000
  const tokens = answers.reduce((sum, answer) => sum + answer.tokens, 0)
  const percentile = (key, part) => {
    const sorted = answers.map((answer) => answer[key]).sort((a, b) => a - b)
    return Math.round(sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))])
  }
  return {
    clients,
    answered: `${answers.length} of ${total}`,
    firstP50: percentile('first', 0.5),
    firstP99: percentile('first', 0.99),
    endP50: percentile('end', 0.5),
    endP99: percentile('end', 0.99),
    tokensPerSecond: Math.round(tokens / seconds),
  }
}

/** Milliseconds to the first text and to the end of an answer, and its tokens. */
async function complete(i) {
  const began = performance.now()
  const answer = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      model: server.models[i % server.models.length],
      prompt,
      max_tokens: maxTokens,
      seed: i,
      stream: true,
      stream_options: { include_usage: true },
    }),
  })
  if (answer.status !== 200) throw new Error(`${answer.status}: ${await answer.text()}`)
  let text = ''
  let first
  for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
    first ??= performance.now() - began
    text += chunk
  }
  const { completion_tokens: tokens } = JSON.parse(text.match(/\{.*"usage".*\}/)[0]).usage
  return { first, end: performance.now() - began, tokens }
}
