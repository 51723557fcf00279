// Builds the addon with node-gyp, and the CUDA library where nvcc is. Node's own headers are used where the installation
// has them, so that building needs no download; elsewhere node-gyp fetches the headers of this Node version.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { buildCuda, findNvcc } from './build-cuda.mjs'

const nodeDir = path.resolve(process.execPath, '../..')
const headers = existsSync(path.join(nodeDir, 'include/node/node_api.h')) ? [`--nodedir=${nodeDir}`] : []
const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
const command = process.argv[2] ?? 'build'
const steps = command === 'rebuild' ? ['rebuild'] : ['configure', 'build']
for (const step of steps) {
  const { status } = spawnSync(process.execPath, [nodeGyp, step, '--silent', '-j', 'max', ...headers], {
    stdio: 'inherit',
  })
  if (status !== 0) process.exit(status ?? 1)
}
if (findNvcc()) await buildCuda()
