// Prints the sources of the addon, or with `cuda` those of the CUDA library, one a line, from the one list of them:
// binding.gyp, CMakeLists.txt and build-cuda.mjs all ask here.
import { readFileSync } from 'node:fs'

const { core, cpu, addon, cuda, ops } = JSON.parse(
  readFileSync(new URL('../native/sources.json', import.meta.url), 'utf8'),
)
const files =
  process.argv[2] === 'cuda'
    ? [...cuda, ...ops.map((op) => `ops/${op}/cuda.cu`)]
    : [...core, ...cpu, ...addon, ...ops.map((op) => `ops/${op}/cpu.cpp`)]
console.log(files.map((file) => `native/${file}`).join('\n'))
