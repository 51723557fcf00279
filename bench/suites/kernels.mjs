import { attention, attentionBackward } from '../../dist/native/attention.js'
import { cast } from '../../dist/native/cast.js'
import { gemm } from '../../dist/native/gemm.js'
import { dequantizeNf4, nf4Gemm, quantizeNf4 } from '../../dist/native/nf4.js'
import { Arena } from '../../dist/tensor/arena.js'
import { tensorFrom } from '../../dist/tensor/tensor.js'
import { clocks } from '../lib/machine.mjs'
import { fillRandom } from '../lib/models.mjs'
import { peerFields, startPeer } from '../lib/peer.mjs'
import { counted, notCounted, shortSampler, spreadOf } from '../lib/timing.mjs'

export const description =
  'Matrix products, NF4 and attention at the shapes of a training step, beside torch and bitsandbytes'

/** `x w^T`, `dy w` and `dy^T x` of a step: with A and B transposed or not, as BLAS names them. */
const orientations = {
  nt: { transposeA: false, transposeB: true },
  nn: { transposeA: false, transposeB: false },
  tn: { transposeA: true, transposeB: false },
}

/**
 * [outputs, inputs] of the projections: 8B; 70B; 70B pruned by 0.85, whose 4300 is no multiple of any tile and whose 2 heads of
 * keys are few columns; SmolLM2.
 */
const weights8b = ['4096x4096', '1024x4096', '14336x4096', '4096x14336']
const weights70b = [
  '8192x8192',
  '28672x8192',
  '8192x28672',
  '2048x8192',
  '8192x2048',
  '4300x8192',
  '8192x4300',
  '256x8192',
]
const weightsSmall = ['576x576', '192x576', '1536x576', '576x1536']

/** Inputs rotate over so many bytes, so that no cache holds them from one call to the next. */
const rotated = { cuda: 2 ** 27, cpu: 2 ** 25 }

/** Of a weight, double quantised. */
const nf4Bytes = 0.516

/** Sequences of a length, heads of queries and of keys, and a head's size. */
const attentions = {
  cuda: [
    [2, 2048, 32, 8, 128],
    [4, 512, 32, 8, 128],
    [4, 512, 16, 2, 128],
    [1, 2048, 64, 8, 128],
    [1, 8192, 32, 8, 128],
  ],
  cpu: [[2, 256, 9, 3, 64]],
}

export function casesFor({ kind, activations }) {
  const onGpu = kind === 'cuda'
  const shapes = onGpu
    ? [...products([2048, 4096], weights8b), ...products([2048], weights70b), ...products([1], ['28672x8192'])]
    : [...products([1024], weightsSmall), ...products([1], [...weightsSmall, '49152x576'])]
  const dequantized = onGpu ? ['28672x8192', '14336x4096', '8192x4300', '4096x4096', '256x8192'] : ['1536x576']
  return [
    ...shapes.map((shape) => ({ case: `gemm-${activations}`, ...shape })),
    ...shapes.filter(({ orientation }) => orientation !== 'tn').map((shape) => ({ case: 'gemm-nf4', ...shape })),
    ...dequantized.map((weight) => {
      const [m, n] = weight.split('x').map(Number)
      return { case: 'dequantize-nf4', m, n }
    }),
    ...['attention-forward', 'attention-backward'].flatMap((name) =>
      attentions[kind].map((shape) => ({ case: name, ...attentionOf(shape) })),
    ),
  ]
}

/** The three products of a step with `tokens` rows: m x n out of depth k. Decoding, of one row, has the first alone. */
function products(tokens, weights) {
  return tokens.flatMap((rows) =>
    weights.flatMap((weight) => {
      const [outputs, inputs] = weight.split('x').map(Number)
      const forward = { m: rows, n: outputs, k: inputs, orientation: 'nt' }
      if (rows === 1) return [forward]
      return [
        forward,
        { m: rows, n: inputs, k: outputs, orientation: 'nn' },
        { m: outputs, n: inputs, k: rows, orientation: 'tn' },
      ]
    }),
  )
}

/** m tokens, queries n wide, keys and values k wide. */
const attentionOf = ([sequences, length, heads, kvHeads, headDim]) => ({
  ...{ m: sequences * length, n: heads * headDim, k: kvHeads * headDim },
  ...{ orientation: 'causal', sequences, headDim },
})

/** Samples of ours and of the peers' turn about, in two processes on one GPU, so that both find it as warm. */
export async function* run(cases, { device, python }) {
  const peer = startPeer(python, 'kernels_peer.py')
  const arena = new Arena(device, device.kind === 'cuda' ? 2 ** 32 : 2 ** 30)
  for (const options of cases) {
    const asked = { ...options, rotated: rotated[device.kind], device: device.kind }
    const isPrepared = (await peer?.ask(asked)) !== undefined
    yield { ...options, ...(await timeKernel(options, arena, device, isPrepared ? peer : undefined)) }
  }
  await peer?.close()
}

async function timeKernel(options, arena, device, peer) {
  const mark = arena.mark()
  try {
    const works = prepare[options.case](options, arena)
    let next = 0
    const sample = shortSampler(() => works[next++ % works.length](), device, works.length)
    const ours = []
    const theirs = []
    for (let i = 0; i < notCounted + counted; i++) {
      ours.push(sample())
      theirs.push((await peer?.ask({ case: options.case, sample: i }))?.milliseconds ?? {})
    }
    const medianOf = (times) => spreadOf(times.slice(notCounted))
    const names = Object.keys(theirs[0])
    const peers = Object.fromEntries(
      names.map((name) => [name, medianOf(theirs.map((times) => times[name])).milliseconds]),
    )
    return {
      ...medianOf(ours),
      ...clocks(device),
      ...peerFields(peers, names[0], (milliseconds) => ({ peerMilliseconds: milliseconds })),
    }
  } catch (error) {
    return { failure: error.message }
  } finally {
    arena.release(mark)
  }
}

/** Each gives functions that do the same work on equal inputs in different places. */
const prepare = {
  'gemm-bf16': prepareGemm,
  'gemm-f32': prepareGemm,
  'gemm-nf4': ({ m, n, k, orientation }, arena) => {
    const transposed = orientation === 'nn'
    const shape = transposed ? [k, n] : [n, k]
    const x = random(arena, [m, k])
    const y = arena.empty([m, n], arena.activations)
    const w = random(arena, shape, 1)
    return copies(arena, nf4Bytes * n * k, () => {
      const weight = quantizeNf4(w)
      return () => nf4Gemm(x, weight, y, { transposed })
    })
  },
  'dequantize-nf4': ({ m, n }, arena) => {
    const w = random(arena, [m, n])
    return copies(arena, nf4Bytes * m * n, () => {
      const weight = quantizeNf4(w)
      return scratch(arena, () => dequantizeNf4(weight, arena.activations))
    })
  },
  'attention-forward': (options, arena) =>
    attentionCopies(options, arena, ({ q, k, v, bounds }) => attention(q, k, v, bounds, bounds, options.headDim)),
  'attention-backward': (options, arena) =>
    attentionCopies(options, arena, ({ q, k, v, bounds, dy, y, lse }) =>
      attentionBackward(dy, q, k, v, y, lse, bounds, options.headDim),
    ),
}

const copy = (tensor) => cast(tensor, tensor.dtype)

function prepareGemm({ m, n, k, orientation }, arena) {
  const { transposeA, transposeB } = orientations[orientation]
  const c = arena.empty([m, n], arena.activations)
  const x = random(arena, transposeA ? [k, m] : [m, k])
  const w = random(arena, transposeB ? [n, k] : [k, n], 1)
  return copies(arena, bytesOf(arena) * k * (m + n), () => {
    const [a, b] = [copy(x), copy(w)]
    return () => gemm(a, b, c, { transposeA, transposeB })
  })
}

function attentionCopies({ m, n, k: keyWidth, sequences, headDim }, arena, work) {
  const bounds = tensorFrom(
    arena,
    Int32Array.from({ length: sequences + 1 }, (_, i) => (i * m) / sequences),
  )
  const inputs = [n, keyWidth, keyWidth, n].map((width, i) => random(arena, [m, width], i, 1))
  return copies(arena, 2 * bytesOf(arena) * m * (n + keyWidth), () => {
    const [q, k, v, dy] = inputs.map(copy)
    const { y, lse } = attention(q, k, v, bounds, bounds, headDim)
    return scratch(arena, () => work({ q, k, v, bounds, dy, y, lse }))
  })
}

const bytesOf = ({ activations }) => (activations === 'bf16' ? 2 : 4)

/** As many as fill more than a cache, at least two; `bytes` are read by one. */
const copies = ({ kind }, bytes, make) => Array.from({ length: Math.max(2, Math.ceil(rotated[kind] / bytes)) }, make)

/** `work`, whose outputs are given back to the arena. */
function scratch(arena, work) {
  return () => {
    const mark = arena.mark()
    work()
    arena.release(mark)
  }
}

function random(arena, shape, stream = 0, deviation = 0.02) {
  const tensor = arena.empty(shape, arena.activations)
  const mark = arena.mark()
  fillRandom(tensor, deviation, stream)
  arena.release(mark)
  return tensor
}
