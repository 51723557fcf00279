// Reads far outside of a table on the GPU, which costs the process its GPU context, and prints the errors of that call
// and of two later ones.
import { fileURLToPath } from 'node:url'
import { addon, bytesOf, call, tensor } from '../ops/addon.mjs'

addon.openCuda(fileURLToPath(new URL('../../build/Release/loram_cuda.so', import.meta.url)), 0)

const [weight, y] = [
  [8, 4],
  [1, 4],
].map((shape) => tensor('f32', shape, undefined, 'cuda'))
const ids = tensor('i32', [1], Int32Array.of(2 ** 30), 'cuda')

const calls = [() => call('embedding', weight, ids, y), () => call('embedding', weight, ids, y), () => bytesOf(y)]
const errors = calls.map((run) => {
  try {
    run()
    return {}
  } catch ({ code, message }) {
    return { code, message }
  }
})
console.log(JSON.stringify(errors))
