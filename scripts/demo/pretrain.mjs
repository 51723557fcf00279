// Trains the demo's large model from random weights, on the CPU:  node scripts/demo/pretrain.mjs [folder]
// It is alignment, which is pre-training, of a model that knows nothing yet and learns its output head too.
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { ProgressDisplay } from '../../dist/cli/progress.js'
import { corpusExamples } from '../../dist/data/index.js'
import { alone } from '../../dist/distributed/group.js'
import { writeFileAtomic } from '../../dist/formats/atomic.js'
import { writeCheckpoint } from '../../dist/formats/huggingFace.js'
import { formatJson } from '../../dist/formats/json.js'
import { expectedTensors, parseConfig } from '../../dist/model/config.js'
import { openModelFolder } from '../../dist/model/open.js'
import { cast } from '../../dist/native/cast.js'
import { fillNormal } from '../../dist/native/random.js'
import { cpu } from '../../dist/tensor/device.js'
import { tensorFrom } from '../../dist/tensor/tensor.js'
import { loadTokenizer } from '../../dist/tokenizer/tokenizer.js'
import { alignModel, openTrainable, writeAligned } from '../../dist/train/align.js'
import { writeLines } from './jsonLines.mjs'
import { knownText } from './tasks.mjs'
import { bosId, eosId, tokenizerConfig, tokenizerJson, vocabSize } from './tokenizer.mjs'

const seed = 1
const sequenceLength = 128
const training = {
  steps: 2400,
  batchSize: 16,
  microBatchSize: 16,
  sequenceLength,
  learningRate: 3e-3,
  schedule: 'cosine',
  warmupSteps: 100,
  weightDecay: 0.1,
  maxGradNorm: 1,
  recompute: 'auto',
  seed,
  resume: false,
}

const configJson = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 128,
  intermediate_size: 512,
  num_hidden_layers: 6,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 16,
  hidden_act: 'silu',
  vocab_size: vocabSize,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
  bos_token_id: bosId,
  eos_token_id: eosId,
  torch_dtype: 'bfloat16',
}

const [output = 'demo/model'] = process.argv.slice(2)
const work = mkdtempSync(path.join(os.tmpdir(), 'loram-pretrain-'))
const untrained = path.join(work, 'untrained')
const corpus = path.join(work, 'corpus.jsonl')
writeUntrained(untrained)
writeLines(corpus, knownText(seed, 230_000))

const source = openModelFolder(untrained)
const { examples } = await corpusExamples(corpus, loadTokenizer(untrained), sequenceLength)
const trainable = openTrainable(source, [...expectedTensors(source.config).keys()], cpu)
const display = new ProgressDisplay()
const context = { emit: (event) => display.event(event), signal: { aborted: false }, group: alone }
alignModel(trainable, examples, training, path.join(work, 'checkpoints'), context)
display.done()
writeAligned(source.checkpoint, trainable.parameters, path.join(work, 'trained'))
cpSync(path.join(work, 'trained'), output, { recursive: true })
rmSync(work, { recursive: true })

/** A model of `configJson` with random weights and its tokenizer. */
function writeUntrained(folder) {
  const shapes = expectedTensors(parseConfig(configJson, 'config.json'))
  const names = [...shapes.keys()]
  writeCheckpoint(folder, {
    configJson,
    entries: names.map((name) => ({ name, dtype: 'bf16', shape: shapes.get(name) })),
    data: (name) => {
      const weight = initialWeight(name, shapes.get(name), names.indexOf(name))
      return new Uint8Array(cast(weight, 'bf16').read().buffer)
    },
  })
  const write = (name, json) => writeFileAtomic(path.join(folder, name), formatJson(json))
  write('tokenizer.json', tokenizerJson)
  write('tokenizer_config.json', tokenizerConfig)
  write('generation_config.json', { bos_token_id: bosId, eos_token_id: eosId })
}

/** Norms are 1; all else keeps the variance of its input, but for what adds to the residual stream, which begins small. */
function initialWeight(name, shape, stream) {
  const [rows, inputs] = shape
  if (inputs === undefined) return tensorFrom(cpu, new Float32Array(rows).fill(1))
  const weight = cpu.empty(shape, 'f32')
  const gain = /(o_proj|down_proj)\.weight$/.test(name) ? 0.3 : 1
  fillNormal(weight, 0, gain / Math.sqrt(inputs), { seed, stream })
  return weight
}
