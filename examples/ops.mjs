// The kernels by themselves: LoRA on one frozen NF4 matrix learns to imitate another matrix.
//   node examples/ops.mjs
import {
  Arena,
  adamW,
  cpu,
  fillNormal,
  gemm,
  loraForward,
  loraInputBackward,
  loraOutputBackward,
  nf4Gemm,
  quantizeNf4,
  zeros,
} from 'loram/ops'

const [tokens, inputs, outputs, rank, scale] = [64, 128, 96, 8, 2]
const arena = new Arena(cpu, 2 ** 20)
const random = (shape, deviation, stream) => {
  const tensor = zeros(arena, shape, 'f32')
  fillNormal(tensor, 0, deviation, { seed: 1, stream })
  return tensor
}

const weight = random([outputs, inputs], 0.1, 0)
const frozen = quantizeNf4(weight)
const x = random([tokens, inputs], 1, 1)

// What to imitate: the weight, and an update of rank 2
const [u, v] = [random([outputs, 2], 0.3, 2), random([2, inputs], 0.3, 3)]
gemm(u, v, weight, { beta: 1 })
const wanted = zeros(arena, [tokens, outputs], 'f32')
gemm(x, weight, wanted, { transposeB: true })

// A and B lie in one flat tensor, and so do their gradients: AdamW updates both at once
const sizes = { a: rank * inputs, b: outputs * rank }
const flat = () => zeros(arena, [sizes.a + sizes.b], 'f32')
const pair = (tensor) => [tensor.slice(0, [rank, inputs]), tensor.slice(sizes.a, [outputs, rank])]
const [parameters, grads, firstMoment, secondMoment] = [flat(), flat(), flat(), flat()]
const [[a, b], [da, db]] = [pair(parameters), pair(grads)]
fillNormal(a, 0, 1 / Math.sqrt(inputs), { seed: 1, stream: 4 })

for (let step = 1; step <= 200; step++) {
  const mark = arena.mark()
  const y = zeros(arena, [tokens, outputs], 'f32')
  nf4Gemm(x, frozen, y)
  const inner = loraForward(x, a, b, y, { scale })

  const [got, target] = [y.read(), wanted.read()]
  const error = got.map((value, i) => value - target[i])
  const loss = error.reduce((sum, value) => sum + value * value, 0) / error.length
  const dy = zeros(arena, [tokens, outputs], 'f32').write(error.map((value) => (2 * value) / error.length))

  grads.zero()
  const d = zeros(arena, [tokens, rank], 'f32')
  loraOutputBackward(dy, b, inner, d, db, scale)
  loraInputBackward(d, x, a, undefined, da)
  adamW(parameters, grads, firstMoment, secondMoment, {
    learningRate: 0.02,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weightDecay: 0,
    step,
  })
  arena.release(mark)
  if (step === 1 || step % 50 === 0) console.log(`step ${step}, loss ${loss.toFixed(4)}`)
}
