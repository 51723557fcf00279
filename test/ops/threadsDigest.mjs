// Prints the SHA-256 of what the ops give for one set of inputs, larger than what one thread takes. Talks to the addon
// itself, so that it runs in a process of its own without a build step.
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'

const addon = createRequire(import.meta.url)('../../build/Release/loram.node')
const dtypes = { f32: 0, i32: 4, i64: 5 }
const bytesPerElement = { f32: 4, i32: 4, i64: 8 }

const hash = createHash('sha256')
const results = []

function tensor(dtype, shape, values) {
  const bytes = shape.reduce((product, size) => product * size, 1) * bytesPerElement[dtype]
  const handle = addon.view(addon.allocate(bytes, 'cpu'), 0, dtypes[dtype], shape.at(-1), ...shape)
  if (values) addon.upload(handle, 0, new Uint8Array(values.buffer))
  results.push({ handle, bytes })
  return handle
}

const f32 = (...shape) => {
  const count = shape.reduce((product, size) => product * size, 1)
  return tensor(
    'f32',
    shape,
    Float32Array.from({ length: count }, (_, i) => Math.sin(i * i + count)),
  )
}
const i32 = (values) => tensor('i32', [values.length], Int32Array.from(values))
const range = (count, f) => Array.from({ length: count }, (_, i) => f(i))

const [rows, dim, headDim] = [129, 1300, 64]
const x = f32(rows, dim)
const rstd = f32(rows)
addon.rmsNorm(x, f32(dim), f32(rows, dim), rstd, 1e-5)
addon.rmsNormBackward(f32(rows, dim), x, f32(dim), rstd, f32(rows, dim), f32(dim))
addon.addBias(x, f32(dim))
addon.addBiasBackward(x, f32(dim))
addon.swiglu(x, f32(rows, dim), f32(rows, dim))
addon.swigluBackward(f32(rows, dim), x, f32(rows, dim), f32(rows, dim), f32(rows, dim))
addon.crossEntropy(f32(rows, dim), i32(range(rows, (i) => i)), f32(1), f32(rows), 0.5, true)
addon.distillation(f32(rows, dim), x, i32(range(rows, (i) => i)), f32(1), 0.5, 0.5, 2, true)
addon.embedding(f32(50, dim), i32(range(rows, (i) => (i * 7) % 50)), f32(rows, dim))
addon.embeddingBackward(x, i32(range(rows, (i) => (i * 7) % 50)), f32(50, dim))
addon.rope(f32(rows, 576), i32(range(rows, (i) => i)), f32(headDim / 2), false)

const tokens = 250
const [q, k, v, y, lse] = [f32(tokens, 576), f32(tokens, 192), f32(tokens, 192), f32(tokens, 576), f32(tokens, 9)]
const bounds = i32([0, 1, 130, 250])
addon.attention(q, k, v, bounds, bounds, y, lse, headDim, 70)
const gradients = [f32(tokens, 576), f32(tokens, 192), f32(tokens, 192)]
addon.attentionBackward(f32(tokens, 576), q, k, v, y, lse, bounds, ...gradients, headDim, 70)

const n = 100_001
const squares = f32(n)
addon.random(squares, false, 0, 1, 3, 4)
addon.adamW(f32(n), f32(n), f32(n), squares, 1e-3, 0.9, 0.999, 1e-8, 0.01, 3)
addon.clipGradNorm(f32(n), f32(1), 1)
addon.random(f32(n), true, 0, 1, 1, 2)
addon.cast(f32(n), f32(n))
addon.countNonFinite(f32(n), tensor('i64', [2]))

const kept = i32(range(600, (i) => 2 * i + (i % 2)))
addon.gatherColumns(x, kept, f32(rows, 600))
addon.scatterColumns(f32(rows, 600), kept, x)
const cut = f32(rows, 256)
addon.cutLeast(cut, f32(256), 2, 4)
const ones = tensor(
  'f32',
  [256, 256],
  Float32Array.from({ length: 256 ** 2 }, (_, i) => (i % 257 === 0 ? 2 : Math.sin(i) ** 2 / 256)),
)
const factor = f32(256, 256)
addon.inverseFactor(ones, factor, i32([0]), 1)
addon.sparseGpt(cut, ones, factor, 0, 0, 0.7, 128)
addon.keepZeros(cut, f32(rows, 256))
addon.importance(x, f32(rows, dim), f32(rows), f32(dim), false)

for (const { handle, bytes } of results) {
  const data = new Uint8Array(bytes)
  addon.download(handle, 0, data)
  hash.update(data)
}
process.stdout.write(hash.digest('hex'))
