// Prints the sources of the addon, or with `cuda` those of the CUDA library, one a line and relative to the working
// directory, from the one list of them: binding.gyp, CMakeLists.txt and build-cuda.mjs all ask here.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const native = fileURLToPath(new URL('../native', import.meta.url))
const { core, cpu, addon, cuda, ops } = JSON.parse(readFileSync(path.join(native, 'sources.json'), 'utf8'))
const files =
  process.argv[2] === 'cuda'
    ? [...cuda, ...ops.map((op) => `ops/${op}/cuda.cu`)]
    : [...core, ...cpu, ...addon, ...ops.map((op) => `ops/${op}/cpu.cpp`)]
console.log(files.map((file) => path.relative('', path.join(native, file))).join('\n'))
