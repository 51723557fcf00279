// Builds build/Release/loram.node with node-gyp:  node scripts/build-native.mjs [rebuild]
// Node's own headers are used where the installation has them, so that building needs no download; elsewhere node-gyp
// fetches the headers of this Node version. It also lies in the published package, for `loram build`.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const native = path.join(root, 'native')
const require = createRequire(import.meta.url)

/** A file of a tool, installed with this package or in the project that it is run for. */
function find(file) {
  try {
    return require.resolve(file, { paths: [root, process.cwd()] })
  } catch {
    throw new Error('there is no node-gyp or no node-addon-api: npm install --save-dev node-gyp@12 node-addon-api@8')
  }
}

/** @param output of the compiler, as in child_process' `stdio` */
export function buildAddon(command = 'build', output = 'inherit') {
  const nodeGyp = find('node-gyp/bin/node-gyp.js')
  const nodeAddonApi = path.relative(native, path.dirname(find('node-addon-api/napi.h')))
  const nodeDir = path.resolve(process.execPath, '../..')
  const headers = existsSync(path.join(nodeDir, 'include/node/node_api.h')) ? [`--nodedir=${nodeDir}`] : []
  const configure = ['configure', ...headers, '--', `-Dnode_addon_api=${nodeAddonApi}`]
  const steps = [...(command === 'rebuild' ? [['clean']] : []), configure, ['build', '-j', 'max', ...headers]]
  for (const [step, ...args] of steps) {
    const { status } = spawnSync(process.execPath, [nodeGyp, step, '--silent', ...args], {
      cwd: native,
      stdio: ['ignore', output, output],
    })
    if (status !== 0) throw new Error(`node-gyp ${step} failed: it needs g++ 12 or newer, make and Python 3`)
  }
  const built = path.join(root, 'build/Release/loram.node')
  mkdirSync(path.dirname(built), { recursive: true })
  // In one step: processes that have the old one open keep it
  renameSync(path.join(native, 'build/Release/loram.node'), built)
  return built
}

if (process.argv[1] === fileURLToPath(import.meta.url)) buildAddon(process.argv[2])
