#!/usr/bin/env node
// Speed on the CPU: SmolLM2-135M's forward pass, LoRA step and decoding, beside transformers + PEFT in the same run.
//   npm run bench:cpu -- MODEL_DIR TEXT_FILE [PYTHON]
// MODEL_DIR is a Hugging Face folder; PYTHON has torch, transformers and peft. Without it only loram is timed.
// Prints a table and appends one JSON line a case to bench/results/cpu.jsonl.
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { generateDefaults, generateTokens } from '../dist/infer/generate.js'
import { evaluateLoss } from '../dist/infer/perplexity.js'
import { addAdapter, loraDefaults } from '../dist/lora/attach.js'
import { arenaFor } from '../dist/memory/measure.js'
import { openModelFolder, readModel } from '../dist/model/open.js'
import { addon } from '../dist/native/load.js'
import { Arena } from '../dist/tensor/arena.js'
import { cpu } from '../dist/tensor/device.js'
import { loadTokenizer } from '../dist/tokenizer/tokenizer.js'
import { AdamW, adamWDefaults } from '../dist/train/adamW.js'
import { uniform } from '../dist/train/recompute.js'
import { trainStep } from '../dist/train/step.js'

const [modelDir, textFile, python] = process.argv.slice(2)
if (!modelDir || !textFile) {
  console.error('usage: npm run bench:cpu -- MODEL_DIR TEXT_FILE [PYTHON]')
  process.exit(2)
}
const ids = loadTokenizer(modelDir).encode(readFileSync(textFile, 'utf8').slice(0, 60_000)).slice(0, 8192)

const ours = measureLoram()
const peers = python ? measurePeer() : new Map()
const results = Array.from(ours, ([name, tokensPerSecond]) => {
  const peerTokensPerSecond = peers.get(name)
  const ratio = peerTokensPerSecond && tokensPerSecond / peerTokensPerSecond
  return {
    case: name,
    tokensPerSecond,
    ...(peerTokensPerSecond && { peer: 'transformers+peft', peerTokensPerSecond, ratio }),
  }
})
console.table(Object.fromEntries(results.map(({ case: name, ...row }) => [name, row])))
record(results)

function measureLoram() {
  const source = openModelFolder(modelDir)
  const model = readModel(source, cpu, 'none')
  const full = microBatch(4, 512)
  const small = microBatch(4, 256)
  const speeds = new Map()

  const forwardArena = arenaFor(model, (twin, meta) => evaluateLoss(twin, meta, [full], { aborted: false }))
  speeds.set('forward-4x512', 2048 / median(3, () => evaluateLoss(model, forwardArena, [full], { aborted: false })))
  forwardArena.dispose()

  const endless = { ...model, config: { ...model.config, eosTokenIds: [] } }
  const decode = () => Array.from(generateTokens(endless, ids.slice(0, 16), { ...generateDefaults, maxNewTokens: 64 }))
  speeds.set('decode', 64 / median(3, decode))

  const parameters = addAdapter(model, { ...loraDefaults, dropout: 0 }, 1)
  const optimizer = new AdamW(parameters, adamWDefaults)
  const recompute = uniform('none', model.layers.length)
  const trainer = { model, parameters, optimizer, maxGradNorm: 1, recompute, dropout: { rate: 0, seed: 1 } }
  const arena = new Arena(cpu, 4 * 2 ** 30)
  const batch = { microBatches: [small], targetCount: 4 * 255, epoch: 0, examples: [] }
  speeds.set('lora-step-4x256-r8', 1024 / median(5, () => trainStep({ ...trainer, arena }, batch, 1e-4)))
  return speeds
}

function microBatch(rows, length) {
  const starts = Array.from({ length: rows }, (_, row) => row * 512)
  const at = (offset) => Int32Array.from(starts.flatMap((start) => ids.slice(start + offset, start + offset + length)))
  const targets = at(1).map((id, i) => ((i + 1) % length === 0 ? -100 : id))
  const positions = Int32Array.from({ length: rows * length }, (_, i) => i % length)
  return { ids: at(0), targets, positions, bounds: Int32Array.from({ length: rows + 1 }, (_, i) => i * length) }
}

/** Median seconds of `repeats` runs after one that is not counted. */
function median(repeats, work) {
  const seconds = Array.from({ length: repeats + 1 }, () => {
    const began = performance.now()
    work()
    return (performance.now() - began) / 1000
  })
  return seconds.slice(1).sort((a, b) => a - b)[Math.floor(repeats / 2)]
}

function measurePeer() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'loram-bench-'))
  const tokens = path.join(folder, 'tokens.json')
  writeFileSync(tokens, JSON.stringify(ids))
  const script = fileURLToPath(new URL('peers/cpu.py', import.meta.url))
  const env = { ...process.env, OMP_NUM_THREADS: String(addon().threads()) }
  const output = execFileSync(python, [script, modelDir, tokens], {
    encoding: 'utf8',
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  rmSync(folder, { recursive: true })
  const lines = output.split('\n').filter((line) => line.startsWith('{'))
  return new Map(lines.map((line) => JSON.parse(line)).map((row) => [row.case, row.tokensPerSecond]))
}

function record(rows) {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim()
  const machine = { cpu: os.cpus()[0].model, threads: addon().threads(), commit, date: new Date().toISOString() }
  const lines = rows.map((row) => `${JSON.stringify({ ...row, ...machine })}\n`)
  appendFileSync(fileURLToPath(new URL('results/cpu.jsonl', import.meta.url)), lines.join(''))
}
