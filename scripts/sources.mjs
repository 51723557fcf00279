// Prints the addon's sources, one a line, from the one list of them: binding.gyp and CMakeLists.txt both ask here.
import { readFileSync } from 'node:fs'

const { core, cpu, addon, ops } = JSON.parse(readFileSync(new URL('../native/sources.json', import.meta.url), 'utf8'))
const files = [...core, ...cpu, ...addon, ...ops.map((op) => `ops/${op}/cpu.cpp`)]
console.log(files.map((file) => `native/${file}`).join('\n'))
