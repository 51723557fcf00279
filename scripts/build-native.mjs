// Builds build/Release/loram.node with node-gyp:  node scripts/build-native.mjs [rebuild]
// Node's own headers are used where the installation has them, so that building needs no download; elsewhere node-gyp
// fetches the headers of this Node version. It also lies in the published package, for `loram build`.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
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
  // binding.gyp asks for it by its name
  const env = { ...process.env, NODE_PATH: path.resolve(find('node-addon-api/napi.h'), '../..') }
  const nodeDir = path.resolve(process.execPath, '../..')
  const headers = existsSync(path.join(nodeDir, 'include/node/node_api.h')) ? [`--nodedir=${nodeDir}`] : []
  withBindingGyp(() => {
    for (const step of command === 'rebuild' ? ['rebuild'] : ['configure', 'build']) {
      const args = [nodeGyp, step, '--silent', '-j', 'max', ...headers]
      const { status } = spawnSync(process.execPath, args, { cwd: root, env, stdio: ['ignore', output, output] })
      if (status !== 0) throw new Error(`node-gyp ${step} failed: it needs g++ 12 or newer, make and Python 3`)
    }
  })
  return path.join(root, 'build/Release/loram.node')
}

/** npm builds what has a binding.gyp at its root, so the published package has it there while it builds alone. */
function withBindingGyp(work) {
  const [carried, gyp] = ['native/binding.gyp', 'binding.gyp'].map((file) => path.join(root, file))
  if (!existsSync(carried)) return work()
  copyFileSync(carried, gyp)
  try {
    work()
  } finally {
    rmSync(gyp)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) buildAddon(process.argv[2])
