// Prints the SHA-256 of what the ops give for one set of inputs, larger than what one thread takes.
import { createHash } from 'node:crypto'
import { bytesOf, call, tensor } from './addon.mjs'

const results = []
const kept = (...fields) => {
  results.push(tensor(...fields))
  return results.at(-1)
}

const f32 = (...shape) => {
  const count = shape.reduce((product, size) => product * size, 1)
  return kept(
    'f32',
    shape,
    Float32Array.from({ length: count }, (_, i) => Math.sin(i * i + count)),
  )
}
const i32 = (values) => kept('i32', [values.length], Int32Array.from(values))
const range = (count, f) => Array.from({ length: count }, (_, i) => f(i))

const [rows, dim, headDim] = [129, 1300, 64]
const x = f32(rows, dim)
const rstd = f32(rows)
call('rmsNorm', x, f32(dim), f32(rows, dim), rstd, f32(rows, dim), 1e-5)
call('rmsNormBackward', f32(rows, dim), x, f32(dim), rstd, f32(rows, dim), f32(dim))
call('addBias', x, f32(dim))
call('addBiasBackward', x, f32(dim))
call('swiglu', x, f32(rows, dim), f32(rows, dim))
call('swigluBackward', f32(rows, dim), x, f32(rows, dim), f32(rows, dim), f32(rows, dim))
call('crossEntropy', f32(rows, dim), i32(range(rows, (i) => i)), f32(1), f32(rows), 0.5, true)
call('distillation', f32(rows, dim), x, i32(range(rows, (i) => i)), f32(1), 0.5, 0.5, 2, true)
call('embedding', f32(50, dim), i32(range(rows, (i) => (i * 7) % 50)), f32(rows, dim))
call('embeddingBackward', x, i32(range(rows, (i) => (i * 7) % 50)), f32(50, dim))
call('rope', f32(rows, 576), f32(rows, 192), i32(range(rows, (i) => i)), f32(headDim / 2), false)

const tokens = 250
const [q, k, v, y, lse] = [f32(tokens, 576), f32(tokens, 192), f32(tokens, 192), f32(tokens, 576), f32(tokens, 9)]
const bounds = i32([0, 1, 130, 250])
call('attention', q, k, v, bounds, bounds, y, lse, headDim, 70)
const gradients = [f32(tokens, 576), f32(tokens, 192), f32(tokens, 192)]
call('attentionBackward', f32(tokens, 576), q, k, v, y, lse, bounds, ...gradients, headDim, 70)

const n = 100_001
const squares = f32(n)
call('random', squares, false, 0, 1, 3, 4)
call('adamW', f32(n), f32(n), f32(n), squares, 1e-3, 0.9, 0.999, 1e-8, 0.01, 3)
call('clipGradNorm', f32(n), f32(1), 1)
call('random', f32(n), true, 0, 1, 1, 2)
call('cast', f32(n), f32(n))
call('countNonFinite', f32(n), kept('i64', [2]))

const keptColumns = i32(range(600, (i) => 2 * i + (i % 2)))
call('gatherColumns', x, keptColumns, f32(rows, 600))
call('scatterColumns', f32(rows, 600), keptColumns, x)
const cut = f32(rows, 256)
call('cutLeast', cut, f32(256), 2, 4)
const ones = kept(
  'f32',
  [256, 256],
  Float32Array.from({ length: 256 ** 2 }, (_, i) => (i % 257 === 0 ? 2 : Math.sin(i) ** 2 / 256)),
)
const factor = f32(256, 256)
call('inverseFactor', ones, factor, i32([0]), 1)
call('sparseGpt', cut, ones, factor, 0, 0, 0.7, 128)
call('keepZeros', cut, f32(rows, 256))
call('importance', x, f32(rows, dim), f32(rows), f32(dim), false)

const hash = createHash('sha256')
for (const result of results) hash.update(bytesOf(result))
process.stdout.write(hash.digest('hex'))
