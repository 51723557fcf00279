// Builds build/Release/loram_cuda.so with the nvcc of CUDA_HOME, of PATH, or of .nvcc (see install-nvcc.mjs).
//
//   LORAM_CUDA_ARCH=90a npm run build:cuda     one architecture instead of all, for quick local builds
//   CI=1 npm run build:cuda                    warnings are errors, registers that spill among them
//   npm run build:cuda -- --if-nvcc            does nothing where there is no nvcc
//
// It also lies in the published package, for `loram build --cuda`.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const architectures = process.env.LORAM_CUDA_ARCH?.split(',') ?? ['80', '86', '89', '90a', '120']

export function findNvcc() {
  const folders = [
    ...(process.env.CUDA_HOME ? [path.join(process.env.CUDA_HOME, 'bin')] : []),
    ...(process.env.PATH ?? '').split(path.delimiter),
    path.join(root, '.nvcc/nvidia/cu13/bin'),
  ]
  return folders.map((folder) => path.join(folder, 'nvcc')).find((file) => existsSync(file))
}

function flags() {
  const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
  return [
    ...['-std=c++20', '-O3', '--extended-lambda', `-DLORAM_VERSION="${version}"`],
    ...['-Xcompiler', '-fPIC,-fvisibility=hidden,-Wall,-Wextra'],
    ...(process.env.CI ? ['-Xptxas', '--warn-on-spills', '-Werror', 'all-warnings'] : []),
    ...architectures.flatMap((arch) => ['-gencode', `arch=compute_${arch},code=sm_${arch}`]),
    // GPUs that come later compile the newest architecture's PTX for themselves.
    ...(architectures.includes('120') ? ['-gencode', 'arch=compute_120,code=compute_120'] : []),
  ]
}

function run(command, args, output) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', output, output] })
    child.on('error', reject)
    child.on('exit', (status) => (status === 0 ? resolve() : reject(new Error(`${command} ${args.join(' ')} failed`))))
  })
}

const changed = (file) => (existsSync(file) ? statSync(file).mtimeMs : 0)

/**
 * Compiles what is older than its source, any header or the flags, as many files at once as there are processors, and links.
 * @param output of the compiler, as in child_process' `stdio`
 */
export async function buildCuda(output = 'inherit') {
  const nvcc = findNvcc()
  if (!nvcc) throw new Error('there is no nvcc: set CUDA_HOME, or run npm run install:nvcc')
  const objects = path.join(root, 'build/cuda', architectures.join('-'))
  mkdirSync(objects, { recursive: true })
  mkdirSync(path.join(root, 'build/Release'), { recursive: true })
  const native = readdirSync(path.join(root, 'native'), { recursive: true })
  const headers = native.filter((file) => /\.(h|cuh)$/.test(file))
  const shared = [...headers.map((file) => path.join('native', file)), 'package.json', 'scripts/build-cuda.mjs']
  const newest = Math.max(...shared.map((file) => changed(path.join(root, file))))
  const sources = execFileSync(process.execPath, ['scripts/sources.mjs', 'cuda'], { cwd: root, encoding: 'utf8' })
  const files = sources
    .trim()
    .split('\n')
    .map((source) => ({
      source: path.join(root, source),
      object: path.join(objects, source.replaceAll('/', '-').replace('.cu', '.o')),
    }))
  const stale = files.filter(({ source, object }) => changed(object) <= Math.max(changed(source), newest))
  const worker = async () => {
    for (let file = stale.shift(); file; file = stale.shift()) {
      await run(nvcc, [...flags(), '-c', file.source, '-o', file.object], output)
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  const library = path.join(root, 'build/Release/loram_cuda.so')
  const link = ['-shared', '-cudart', 'static', '-Xlinker', '--no-undefined', '-Xlinker', '--exclude-libs=ALL']
  await run(nvcc, [...link, '-o', library, ...files.map(({ object }) => object)], output)
  return library
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (findNvcc() || process.argv[2] !== '--if-nvcc') await buildCuda()
}
