import { execFileSync } from 'node:child_process'
import { accessSync, constants, mkdirSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { DeviceError, messageOf } from '../../errors.ts'
import { buildFolders } from '../../native/load.ts'
import { buildCommandOptions } from '../../options/index.ts'
import { command } from '../command.ts'

/** What the repository's own build runs; the published package has these scripts too. */
interface Scripts {
  buildAddon(command: 'build', output: number): string
  findNvcc(): string | undefined
  buildCuda(output: number): Promise<string>
  installNvcc(folder: string, output: number): string
}

// Compilers talk to people
const stderr = 2

export const build = command({
  name: 'build',
  description: 'Compile the native addon, and the CUDA library, for this machine',
  options: buildCommandOptions,
  async run({ cuda, installNvcc }): Promise<{ built: string[] }> {
    const folder = writableFolder()
    try {
      const scripts = await loadScripts(folder)
      if (!cuda && installNvcc === undefined) return { built: [scripts.buildAddon('build', stderr)] }
      if (!scripts.findNvcc()) process.env.CUDA_HOME = installedNvcc(scripts, installNvcc)
      return { built: [scripts.buildAddon('build', stderr), await scripts.buildCuda(stderr)] }
    } catch (error) {
      if (error instanceof DeviceError) throw error
      throw new DeviceError('E_BUILD', messageOf(error), {
        remedy: 'mend that, and run it again: what was compiled already is kept',
        cause: error,
      })
    }
  },
  show: ({ built }) => built.map((file) => `built ${file}`).join('\n'),
})

/** This package, or where it is read-only a copy of its sources in a folder of the user's. */
function writableFolder(): string {
  const [packageRoot, userFolder] = buildFolders
  try {
    accessSync(packageRoot, constants.W_OK)
    return packageRoot
  } catch {
    mkdirSync(userFolder, { recursive: true })
    const sources = ['native', 'scripts', 'package.json'].map((name) => path.join(packageRoot, name))
    execFileSync('cp', ['-r', '--no-preserve=mode', ...sources, userFolder])
    return userFolder
  }
}

async function loadScripts(folder: string): Promise<Scripts> {
  const load = (name: string) => import(pathToFileURL(path.join(folder, 'scripts', name)).href)
  return Object.assign({}, ...(await Promise.all(['build-native.mjs', 'build-cuda.mjs', 'install-nvcc.mjs'].map(load))))
}

function installedNvcc(scripts: Scripts, folder: string | undefined): string {
  if (folder !== undefined) return scripts.installNvcc(path.resolve(folder), stderr)
  throw new DeviceError('E_BUILD', 'there is no nvcc in CUDA_HOME or PATH', {
    remedy: 'let pip put it into a folder: npx loram build --cuda --install-nvcc FOLDER',
  })
}
