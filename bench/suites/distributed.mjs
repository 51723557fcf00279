import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { together } from '../../dist/distributed/join.js'
import { openDevice } from '../../dist/tensor/device.js'
import { neverAborted } from '../../dist/worker/protocol.js'
import { isolated } from '../lib/isolated.mjs'
import { measureSteps } from '../lib/training.mjs'

export const description = 'QLoRA steps on several GPUs by NCCL beside the same steps on one: speed, and equal losses'

const large = { model: 'llama-8b', microBatchSize: 2, sequenceLength: 2048, rank: 16 }
const tiny = { model: 'tiny', pruned: 0.5, microBatchSize: 2, sequenceLength: 64, rank: 4 }

/** With one rank, all goes through NCCL as with several. */
export const casesFor = ({ kind }) =>
  kind === 'cuda'
    ? [1, 2, 4, 8]
        .filter((gpus) => gpus <= visibleGpus())
        .map((gpus) => ({ case: `ddp-8b-2x2048-r16-gpus${gpus}`, ...large, memory: '22.4 GB', gpus }))
    : [{ case: 'ddp-tiny-2x64-r4-ranks2', ...tiny, gpus: 2 }]

/**
 * How far the losses may be apart: the sum of a step's gradients is the same in another order, and f32 rounds each addition by
 * 2^-24 of it. Nine steps carry that on; bf16 activations round it away or up to 2^-9 of a value, averaged over all tokens.
 */
const allowed = { cuda: 1e-3, cpu: 1e-5 }

export async function* run(cases, { device }) {
  const { kind } = device
  for (const { case: name, gpus, ...shape } of cases) {
    const options = { ...shape, microBatches: gpus, device: kind }
    const one = await isolated(import.meta.url, 'measureRank', options, environment(kind, 0, 0))
    const ranks = await Promise.all(
      Array.from({ length: gpus }, (_, rank) =>
        isolated(import.meta.url, 'measureRank', options, environment(kind, rank, gpus)),
      ),
    )
    const { losses, ...measured } = ranks[0]
    const failure = [one, ...ranks].find((result) => result.failure)?.failure
    if (failure) {
      yield { case: name, failure }
      continue
    }
    const lossDifference = Math.max(...losses.map((loss, i) => Math.abs(loss / one.losses[i] - 1)))
    yield {
      case: name,
      gpus,
      ...measured,
      oneTokensPerSecond: one.tokensPerSecond,
      speedup: measured.tokensPerSecond / one.tokensPerSecond,
      lossDifference,
      ...(lossDifference > allowed[kind] && { failure: `the losses are ${lossDifference} apart` }),
    }
  }
}

/** Steps of one of the ranks that the environment names, and of rank 0 what is reported. */
export async function measureRank(options) {
  const context = { emit() {}, signal: neverAborted }
  return together(openDevice(options.device), context, async ({ group }) => {
    const losses = []
    return { ...measureSteps(options, group, losses), losses }
  })
}

const sockets = fileURLToPath(new URL('../../test/distributed/sockets.mjs', import.meta.url))

/** What a launcher sets for a rank; `size` 0 sets none. Without a GPU, what the tests have carries the sums. */
function environment(kind, rank, size) {
  if (size === 0) return {}
  return {
    ...{ RANK: String(rank), WORLD_SIZE: String(size), LOCAL_RANK: String(rank), MASTER_ADDR: '127.0.0.1' },
    MASTER_PORT: String(20000 + (process.pid % 10000)),
    ...(kind === 'cuda'
      ? { LORAM_NCCL: process.env.LORAM_NCCL ?? 'libnccl.so.2' }
      : { NODE_OPTIONS: `--import ${sockets}` }),
  }
}

function visibleGpus() {
  const { stdout } = spawnSync('nvidia-smi', ['-L'], { encoding: 'utf8' })
  return stdout?.trim().split('\n').length ?? 1
}
