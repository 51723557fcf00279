// Puts NVIDIA's CUDA compiler into .nvcc, from its pip packages: for machines without a CUDA toolkit. No GPU is needed.
import { spawnSync } from 'node:child_process'
import { existsSync, symlinkSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const target = fileURLToPath(new URL('../.nvcc', import.meta.url))
const packages = [
  'nvidia-cuda-nvcc==13.0.88',
  'nvidia-cuda-crt==13.0.88',
  'nvidia-nvvm==13.0.88',
  'nvidia-cuda-runtime==13.0.96',
  'nvidia-cuda-cccl==13.0.85',
]
const pip = ['-m', 'pip', 'install', '--no-deps', '--upgrade', '--target', target, ...packages]
const { status } = spawnSync('python3', pip, { stdio: 'inherit' })
if (status !== 0) process.exit(status ?? 1)
// Where nvcc and CMake look for libcudart.
const lib64 = path.join(target, 'nvidia/cu13/lib64')
if (!existsSync(lib64)) symlinkSync('lib', lib64)
console.log(`nvcc is in ${path.join(target, 'nvidia/cu13/bin')}`)
