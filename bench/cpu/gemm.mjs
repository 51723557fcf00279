#!/usr/bin/env node
// GFLOP/s of gemm on the CPU at SmolLM2-135M's shapes, beside torch in the same run.
//   node bench/cpu/gemm.mjs [PYTHON]      PYTHON has torch; without it only loram is timed
// Each number is the best of a quarter second: on a shared machine the median measures the neighbours.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { addon } from '../../dist/native/load.js'
import { cpu, gemm, nf4Gemm, quantizeNf4, tensorFrom } from '../../dist/ops.js'

const python = process.argv[2]
const layers = [
  [576, 576],
  [192, 576],
  [1536, 576],
  [576, 1536],
  [49152, 576],
]

/** One line a case: M rows of activations against a weight [N, K], in the three orientations of a training step. */
const cases = [1, 1024].flatMap((M) => layers.map(([N, K]) => ({ M, N, K })))
const peers = python ? measurePeer() : cases.map(() => ({}))

console.table(
  Object.fromEntries(
    cases.map(({ M, N, K }, i) => {
      const gflops = (milliseconds) => Math.round((2e-6 * M * N * K) / milliseconds)
      const row = measure(M, N, K)
      const columns = Object.keys(row).flatMap((name) => [
        [name, gflops(row[name])],
        ...(peers[i][name] ? [[`torch ${name}`, gflops(peers[i][name])]] : []),
      ])
      return [`${M} x ${N} x ${K}`, Object.fromEntries(columns)]
    }),
  ),
)

function measure(M, N, K) {
  const [x, w, dy] = [random(M, K), random(N, K), random(M, N)]
  const [y, dx, dw] = [random(M, N), random(M, K), random(N, K)]
  const packed = quantizeNf4(w)
  return {
    forward: best(() => gemm(x, w, y, { transposeB: true })),
    inputGradient: best(() => gemm(dy, w, dx)),
    weightGradient: best(() => gemm(dy, x, dw, { transposeA: true })),
    nf4Forward: best(() => nf4Gemm(x, packed, y)),
    nf4InputGradient: best(() => nf4Gemm(dy, packed, dx, { transposed: true })),
  }
}

function random(rows, columns) {
  const values = Float32Array.from({ length: rows * columns }, () => Math.random() - 0.5)
  return tensorFrom(cpu, values, [rows, columns])
}

/** Milliseconds of the fastest run in a quarter second. */
function best(work) {
  work()
  let fastest = Infinity
  for (const end = performance.now() + 250; performance.now() < end; ) {
    const began = performance.now()
    work()
    fastest = Math.min(fastest, performance.now() - began)
  }
  return fastest
}

function measurePeer() {
  const script = fileURLToPath(new URL('gemm.py', import.meta.url))
  const output = execFileSync(python, [script, JSON.stringify(cases), String(addon().threads())], { encoding: 'utf8' })
  return JSON.parse(output)
}
