// Puts NVIDIA's CUDA compiler into a folder, from its pip packages:  node scripts/install-nvcc.mjs [folder, default .nvcc]
// For machines without a CUDA toolkit; no GPU is needed. It also lies in the published package, for `loram build`.
import { spawnSync } from 'node:child_process'
import { existsSync, symlinkSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const packages = [
  'nvidia-cuda-nvcc==13.0.88',
  'nvidia-cuda-crt==13.0.88',
  'nvidia-nvvm==13.0.88',
  'nvidia-cuda-runtime==13.0.96',
  'nvidia-cuda-cccl==13.0.85',
]

/**
 * @param output of pip, as in child_process' `stdio`
 * @returns the folder that CUDA_HOME takes
 */
export function installNvcc(folder, output = 'inherit') {
  const pip = ['-m', 'pip', 'install', '--no-deps', '--upgrade', '--target', folder, ...packages]
  const { status } = spawnSync('python3', pip, { stdio: ['ignore', output, output] })
  if (status !== 0) throw new Error('pip cannot install nvcc: it needs Python 3 with pip, and access to PyPI')
  const home = path.join(folder, 'nvidia/cu13')
  // Where nvcc and CMake look for libcudart.
  const lib64 = path.join(home, 'lib64')
  if (!existsSync(lib64)) symlinkSync('lib', lib64)
  return home
}

const script = fileURLToPath(import.meta.url)
if (process.argv[1] === script) {
  const home = installNvcc(process.argv[2] ?? path.join(script, '../../.nvcc'))
  console.log(`nvcc is in ${path.join(home, 'bin')}`)
}
