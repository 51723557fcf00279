// Prints the SHA-256 of what the ops with sums that threads share give for one set of inputs.
import { createHash } from 'node:crypto'
import { bytesOf, call, tensor } from './addon.mjs'

function matrix(...shape) {
  const count = shape.reduce((product, size) => product * size, 1)
  return tensor(
    'f32',
    shape,
    Float32Array.from({ length: count }, (_, i) => ((i * i + count) % 257) / 128 - 1),
  )
}

const hash = createHash('sha256')

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
    const a = transposeA ? matrix(K, M) : matrix(M, K)
    const b = transposeB ? matrix(N, K) : matrix(K, N)
    const c = matrix(M, N)
    call('gemm', a, b, c, transposeA, transposeB, 0.5, 1, null, null)
    hash.update(bytesOf(c))
  }
}

for (const dropout of [0, 0.25]) {
  const [T, K, N, r] = [300, 200, 130, 8]
  const [x, a, b, u, y] = [matrix(T, K), matrix(r, K), matrix(N, r), matrix(T, r), matrix(T, N)]
  call('loraForward', x, a, b, u, y, 2, dropout, 7, 9)
  const [dx, da, db, d] = [matrix(T, K), matrix(r, K), matrix(N, r), matrix(T, r)]
  call('loraOutputBackward', y, b, u, d, db, 2)
  call('loraInputBackward', d, x, a, dx, da, dropout, 7, 9)
  for (const result of [u, y, dx, da, db]) hash.update(bytesOf(result))
}

process.stdout.write(hash.digest('hex'))
