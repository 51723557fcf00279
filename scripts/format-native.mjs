// Formats the C++ of native/ with the one version of clang-format that CI uses; with --check it only complains.
//   pip install clang-format==18.1.8
import { execFileSync, spawnSync } from 'node:child_process'

const wanted = '18.1.8'
const found = spawnSync('clang-format', ['--version'], { encoding: 'utf8' }).stdout ?? 'no clang-format'
if (!found.includes(wanted)) {
  console.error(`found ${found.trim()}, expected ${wanted}: pip install clang-format==${wanted}`)
  process.exit(1)
}
const files = execFileSync('git', ['ls-files', 'native'], { encoding: 'utf8' })
  .split('\n')
  .filter((file) => /\.(cpp|cu|cuh|h|inl)$/.test(file))
const mode = process.argv.includes('--check') ? ['--dry-run', '-Werror'] : ['-i']
process.exitCode = spawnSync('clang-format', [...mode, ...files], { stdio: 'inherit' }).status ?? 1
