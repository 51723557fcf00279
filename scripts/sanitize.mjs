// Runs the op tests under a sanitizer, on the CPU or on the GPU:
//
//   node scripts/sanitize.mjs address | undefined                            builds the addon with it; the tests run in a copy
//                                                                            of the tree, whose build/Release holds that addon
//   node scripts/sanitize.mjs memcheck | racecheck | initcheck | synccheck   compute-sanitizer's, of the CUDA toolkit
//
// Tests to run may follow, by default test/ops.
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const [sanitizer = 'address', ...chosen] = process.argv.slice(2)
const tests = chosen.length > 0 ? chosen : ['test/ops']
const run = (command, args, options = {}) => {
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options })
  if (status !== 0) process.exitCode = 1
  return status === 0
}
const library = (name) => execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()

// Errors end a process with a code of their own, which vitest reports as a crash
if (/check$/.test(sanitizer)) {
  const tool = ['--tool', sanitizer, '--target-processes', 'all', '--error-exitcode', '9', '--print-limit', '20']
  const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--project', 'gpu', '--testTimeout=600000', ...tests]
  run('compute-sanitizer', [...tool, process.execPath, ...vitest], {
    env: { ...process.env, LORAM_SANITIZE: sanitizer },
  })
  process.exit()
}

const built = path.join('build', sanitizer)
const build = ['cmake-js', 'build', '--silent', '--out', built, '--parallel', '2', `--CDLORAM_SANITIZE=${sanitizer}`]
if (!run('npx', build)) process.exit()

const copy = mkdtempSync(path.join(os.tmpdir(), `loram-${sanitizer}-`))
try {
  for (const name of ['package.json', 'tsconfig.json', 'vitest.config.ts', 'src', 'test']) {
    cpSync(path.join(root, name), path.join(copy, name), { recursive: true })
  }
  symlinkSync(path.join(root, 'node_modules'), path.join(copy, 'node_modules'))
  mkdirSync(path.join(copy, 'build/Release'), { recursive: true })
  cpSync(path.join(root, built, 'Release/loram.node'), path.join(copy, 'build/Release/loram.node'))
  // Both must be there before node starts: ASan takes over malloc, and looks for the C++ library's throw when it starts
  const preload = ['libasan.so', 'libstdc++.so'].map(library).join(' ')
  run('npx', ['vitest', 'run', ...tests], {
    cwd: copy,
    // Leaks are not looked for: V8 frees nothing when a process ends
    env: { ...process.env, ...(sanitizer === 'address' && { LD_PRELOAD: preload, ASAN_OPTIONS: 'detect_leaks=0' }) },
  })
} finally {
  rmSync(copy, { recursive: true })
}
