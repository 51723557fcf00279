import { generateDefaults, generateTokens } from '../../dist/infer/generate.js'
import { evaluateLoss } from '../../dist/infer/perplexity.js'
import { addAdapter, loraDefaults } from '../../dist/lora/attach.js'
import { arenaFor } from '../../dist/memory/measure.js'
import { planTraining } from '../../dist/memory/planner.js'
import { Arena } from '../../dist/tensor/arena.js'
import { cpu } from '../../dist/tensor/device.js'
import { AdamW, adamWDefaults } from '../../dist/train/adamW.js'
import { trainStep } from '../../dist/train/step.js'
import { neverAborted } from '../../dist/worker/protocol.js'
import { batchOf, configJson, configOf, randomMicroBatch, randomModel } from '../lib/models.mjs'
import { peerFields, startPeer } from '../lib/peer.mjs'
import { time } from '../lib/timing.mjs'

export const description = 'SmolLM2-135M with random weights in f32 on the CPU, beside transformers and PEFT'

const model = 'smollm2-135m'

export const casesFor = () => [
  { case: 'forward-4x512', work: 'forward', rows: 4, length: 512 },
  { case: 'decode', work: 'decode', rows: 1, length: 64 },
  { case: 'lora-step-4x256-r8', work: 'step', rows: 4, length: 256 },
]

export async function* run(cases, { python }) {
  const peer = startPeer(python, 'cpu_peer.py')
  for (const options of cases) {
    const timing = measure[options.work](options)
    const answer = await peer?.ask({ ...options, model: configJson(model) })
    const perSecond = (milliseconds) => (1000 * options.rows * options.length) / milliseconds
    const peers = answer ? { 'transformers + PEFT': answer.milliseconds } : {}
    yield {
      case: options.case,
      tokensPerSecond: perSecond(timing.milliseconds),
      ...timing,
      ...peerFields(peers, Object.keys(peers)[0], (milliseconds) => ({ peerTokensPerSecond: perSecond(milliseconds) })),
    }
  }
  await peer?.close()
}

const smollm2 = () => randomModel(configOf({ model }), cpu, 'none')

const measure = {
  forward({ rows, length }) {
    const large = smollm2()
    const micro = randomMicroBatch(rows, length, large.config.vocabSize)
    const arena = arenaFor(large, (twin, meta) => evaluateLoss(twin, meta, [micro], neverAborted))
    return time(() => evaluateLoss(large, arena, [micro], neverAborted), cpu, { samples: 5 })
  },
  /** After a prompt of 16 tokens. */
  decode({ length }) {
    const large = smollm2()
    const { ids } = randomMicroBatch(1, 16, large.config.vocabSize)
    const options = { ...generateDefaults, maxNewTokens: length }
    return time(() => Array.from(generateTokens(large, Array.from(ids), options)), cpu, { samples: 5 })
  },
  step({ rows, length }) {
    const large = smollm2()
    const lora = { ...loraDefaults, dropout: 0 }
    const shape = { quantize: 'none', lora, microBatchSize: rows, sequenceLength: length }
    const { bytes } = planTraining(large.config, shape, 'none', cpu)
    const parameters = addAdapter(large, lora, 1)
    const optimizer = new AdamW(parameters, adamWDefaults)
    const arena = new Arena(cpu, bytes.activations)
    const dropout = { rate: 0, seed: 1 }
    const trainer = { model: large, parameters, optimizer, arena, maxGradNorm: 1, recompute: 'none', dropout }
    const batch = batchOf(randomMicroBatch(rows, length, large.config.vocabSize))
    return time(() => trainStep(trainer, batch, 1e-4), cpu, { samples: 5 })
  },
}
