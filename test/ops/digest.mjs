// Prints the SHA-256 of what the ops with sums that threads share give for one set of inputs. Talks to the addon itself,
// so that it runs in a process of its own without a build step.
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'

const addon = createRequire(import.meta.url)('../../build/Release/loram.node')

function tensor(...shape) {
  const count = shape.reduce((product, size) => product * size, 1)
  const values = Float32Array.from({ length: count }, (_, i) => ((i * i + count) % 257) / 128 - 1)
  const handle = addon.view(addon.allocate(count * 4, 'cpu'), 0, 0, shape.at(-1), ...shape)
  addon.upload(handle, 0, new Uint8Array(values.buffer))
  return { handle, count }
}

const hash = createHash('sha256')
function add({ handle, count }) {
  const bytes = new Uint8Array(count * 4)
  addon.download(handle, 0, bytes)
  hash.update(bytes)
}

for (const [M, N, K] of [
  [1, 576, 700],
  [8, 61, 1300],
  [129, 200, 700],
  [300, 8, 1300],
  [8, 300, 1300],
]) {
  for (const [transposeA, transposeB] of [
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ]) {
    const a = transposeA ? tensor(K, M) : tensor(M, K)
    const b = transposeB ? tensor(N, K) : tensor(K, N)
    const c = tensor(M, N)
    addon.gemm(a.handle, b.handle, c.handle, transposeA, transposeB, 0.5, 1, null, null, 0)
    add(c)
  }
}

for (const dropout of [0, 0.25]) {
  const [T, K, N, r] = [300, 200, 130, 8]
  const [x, a, b, u, y] = [tensor(T, K), tensor(r, K), tensor(N, r), tensor(T, r), tensor(T, N)]
  addon.loraForward(x.handle, a.handle, b.handle, u.handle, y.handle, 2, dropout, 7, 9)
  const [dx, da, db, d] = [tensor(T, K), tensor(r, K), tensor(N, r), tensor(T, r)]
  const gradients = [dx, da, db, d].map(({ handle }) => handle)
  addon.loraBackward(x.handle, a.handle, b.handle, u.handle, y.handle, ...gradients, 2, dropout, 7, 9)
  for (const result of [u, y, dx, da, db]) add(result)
}

process.stdout.write(hash.digest('hex'))
