import { isolated } from '../lib/isolated.mjs'
import { configJson, configOf } from '../lib/models.mjs'
import { peerFields, startPeer } from '../lib/peer.mjs'
import { measureSteps } from '../lib/training.mjs'

export { measureSteps }

export const description =
  'QLoRA training steps with random weights, beside other trainers: tokens per second and peak bytes'

const large = { model: 'llama-8b', microBatchSize: 2, sequenceLength: 2048, rank: 16 }
const medium = { model: 'llama-8b', microBatchSize: 4, sequenceLength: 512, rank: 16 }
const pruned = { model: 'llama-70b', pruned: 0.85, microBatchSize: 4, sequenceLength: 512, rank: 8 }
const tiny = { model: 'tiny', pruned: 0.5, microBatchSize: 2, sequenceLength: 64, rank: 4 }

/**
 * `memory` is a budget, within which the planner chooses: a percent less than the fastest peer took of an H200, and for
 * `-small` than the least that any took; of 70B, less than that. Peers train without dropout, so these cases do too.
 */
const cases = {
  cuda: [
    { case: 'qlora-8b-2x2048-r16', ...large, memory: '22.4 GB' },
    { case: 'qlora-8b-2x2048-r16-small', ...large, memory: '7.6 GB' },
    { case: 'qlora-8b-4x512-r16', ...medium, memory: '14.6 GB' },
    { case: 'qlora-8b-4x512-r16-small', ...medium, memory: '7.6 GB' },
    { case: 'qlora-8b-4x512-r16-dropout', ...medium, memory: '14.6 GB', dropout: 0.05 },
    { case: 'qloram-70b-4x512-r8', ...pruned, memory: '24.8 GB' },
    { case: 'qloram-70b-4x512-r8-small', ...pruned, memory: '11 GiB' },
  ],
  cpu: [
    { case: 'qloram-tiny-2x64-r4', ...tiny },
    { case: 'qloram-tiny-2x64-r4-small', ...tiny, memory: '5 MB' },
  ],
}

export const casesFor = ({ kind }) => cases[kind]

/** Programs of bench/peers, by what they measure. On a CPU only the first runs. */
const programs = { transformers: 'steps_peer.py', liger: 'steps_peer.py --liger', unsloth: 'unsloth_peer.py' }
export const trainers = Object.keys(programs)

/** Models one after the other: first the peers' processes, then ours, so that each has the GPU to itself. */
export async function* run(cases, { device, python, trainers: chosen }) {
  for (const model of new Set(cases.map((options) => options.model))) {
    const group = cases.filter((options) => options.model === model)
    const peers = python ? await measurePeers(group, device, python, chosen) : new Map()
    for (const options of group) {
      const measured = await isolated(import.meta.url, 'measureSteps', { ...options, device: device.kind })
      yield { case: options.case, ...measured, ...fastest(peers.get(options.case) ?? {}) }
    }
  }
}

/** @returns {Promise<Map<string, Record<string, object>>>} by case, what each trainer took */
async function measurePeers(cases, device, python, chosen = device.kind === 'cuda' ? trainers : ['transformers']) {
  const asked = cases.filter(({ dropout }) => dropout === undefined)
  const measured = new Map(asked.map((options) => [options.case, {}]))
  for (const trainer of chosen) {
    const peer = startPeer(python, ...programs[trainer].split(' '))
    for (const options of asked) {
      const shape = { model: configJson(options.model), layers: configOf(options).layers }
      const small = options.case.endsWith('-small')
      const answer = await peer.ask({ ...options, ...shape, small, device: device.kind })
      if (answer) {
        const { name, ...result } = answer
        measured.get(options.case)[name] = result
      }
    }
    await peer.close()
  }
  return measured
}

function fastest(peers) {
  const [best] = Object.keys(peers).sort((a, b) => peers[b].tokensPerSecond - peers[a].tokensPerSecond)
  return peerFields(peers, best, ({ tokensPerSecond, peakBytes }) => ({
    peerTokensPerSecond: tokensPerSecond,
    ...(peakBytes && { peerPeakBytes: peakBytes }),
  }))
}
