// Reads far outside of a table on the GPU, which costs the process its GPU context, and prints the errors of that call
// and of two later ones.
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const release = new URL('../../build/Release/', import.meta.url)
const addon = createRequire(import.meta.url)(fileURLToPath(new URL('loram.node', release)))
addon.openCuda(fileURLToPath(new URL('loram_cuda.so', release)))

const [f32, i32] = [0, 4]
const tensor = (dtype, ...shape) => addon.view(addon.allocate(4096, 'cuda'), 0, dtype, shape.at(-1), ...shape)
const [weight, ids, y] = [tensor(f32, 8, 4), tensor(i32, 1), tensor(f32, 1, 4)]
addon.upload(ids, 0, new Uint8Array(Int32Array.of(2 ** 30).buffer))

const calls = [
  () => addon.embedding(weight, ids, y),
  () => addon.embedding(weight, ids, y),
  () => addon.download(y, 0, new Uint8Array(16)),
]
const errors = calls.map((call) => {
  try {
    call()
    return {}
  } catch ({ code, message }) {
    return { code, message }
  }
})
console.log(JSON.stringify(errors))
