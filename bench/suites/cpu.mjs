import { generateDefaults, generateTokens } from '../../dist/infer/generate.js'
import { evaluateLoss } from '../../dist/infer/perplexity.js'
import { arenaFor } from '../../dist/memory/measure.js'
import { cpu, metaDevice } from '../../dist/tensor/device.js'
import { neverAborted } from '../../dist/worker/protocol.js'
import { configJson, configOf, randomMicroBatch, randomModel } from '../lib/models.mjs'
import { peerFields, startPeer } from '../lib/peer.mjs'
import { time, timeShort } from '../lib/timing.mjs'
import { measureSteps, prepareSteps } from '../lib/training.mjs'

export const description = 'SmolLM2-135M with random weights in f32 on the CPU, beside transformers and PEFT'

const model = 'smollm2-135m'
const samples = 5

export const casesFor = () => [
  { case: 'forward-4x512', work: 'forward', rows: 4, length: 512 },
  { case: 'decode', work: 'decode', rows: 1, length: 64 },
  { case: 'lora-step-4x256-r8', work: 'step', rows: 4, length: 256 },
  { case: 'host-32x160-r8', work: 'host', rows: 32, length: 160 },
]

export async function* run(cases, { python }) {
  const peer = startPeer(python, 'cpu_peer.py')
  for (const options of cases) {
    const timing = measure[options.work](options)
    const answer = options.work === 'host' ? undefined : await peer?.ask({ ...options, model: configJson(model) })
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

const smollm2 = () => randomModel(configOf({ model }), cpu, { quantize: 'none' })

const measure = {
  forward({ rows, length }) {
    const large = smollm2()
    const micro = randomMicroBatch(rows, length, large.config.vocabSize)
    const arena = arenaFor(large, (twin, meta) => evaluateLoss(twin, meta, [micro], neverAborted))
    return time(() => evaluateLoss(large, arena, [micro], neverAborted), cpu, { samples })
  },
  /** After a prompt of 16 tokens. */
  decode({ length }) {
    const large = smollm2()
    const { ids } = randomMicroBatch(1, 16, large.config.vocabSize)
    const options = { ...generateDefaults, maxNewTokens: length }
    return time(() => Array.from(generateTokens(large, Array.from(ids), options)), cpu, { samples })
  },
  step({ rows, length }) {
    const shape = { model, microBatchSize: rows, sequenceLength: length, rank: 8, quantize: 'none' }
    return measureSteps({ ...shape, recompute: 'none', device: 'cpu', samples })
  },
  /** A QLoRA step as for the GPU, without data: the time that a step takes in JavaScript. */
  host({ rows, length }) {
    const shape = { model, microBatchSize: rows, sequenceLength: length, rank: 8 }
    const meta = metaDevice('cuda')
    const { step } = prepareSteps({ ...shape, recompute: 'none' }, meta)
    for (let i = 0; i < 50; i++) step() // V8 compiles what runs often
    return timeShort(step, meta)
  },
}
