import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { scratchFolder } from '../formats/scratch.ts'
import { fromRoot } from './project.ts'

const scratch = scratchFolder()
const { version, dependencies } = JSON.parse(readFileSync(fromRoot('package.json'), 'utf8'))
const older = '0.0.9'

const modules = path.join(scratch, 'node_modules')
const main = path.join(modules, 'loram/dist/cli/main.js')

/** `loram` as npm would put it into a project, without any package of a platform. */
beforeEach(() => {
  rmSync(modules, { recursive: true, force: true })
  const loram = path.join(modules, 'loram')
  for (const name of ['dist', 'package.json']) cpSync(fromRoot(name), path.join(loram, name), { recursive: true })
  for (const name of Object.keys(dependencies)) {
    mkdirSync(path.dirname(path.join(modules, name)), { recursive: true })
    symlinkSync(fromRoot(`node_modules/${name}`), path.join(modules, name))
  }
})

/** Puts a package of a platform beside it, as `change` makes its library. */
function add(name: string, file: string, change = (bytes: Buffer) => bytes) {
  const folder = path.join(modules, '@loram', name)
  mkdirSync(folder, { recursive: true })
  writeFileSync(path.join(folder, 'package.json'), JSON.stringify({ name: `@loram/${name}`, main: file }))
  writeFileSync(path.join(folder, file), change(readFileSync(fromRoot(`build/Release/${file}`))))
}
const addAddon = (change?: (bytes: Buffer) => Buffer) => add('cpu-linux-x64', 'loram.node', change)

/** Another string of the same length in a library. */
function patched(from: string, to: string) {
  return (bytes: Buffer) => {
    const text = bytes.toString('latin1')
    expect(text).toContain(`\0${from}\0`)
    return Buffer.from(text.replaceAll(`\0${from}\0`, `\0${to}\0`), 'latin1')
  }
}

function loram(args: string[], env: NodeJS.ProcessEnv = {}, node: string[] = []) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...node, main, ...args], {
    cwd: scratch,
    env: { ...process.env, XDG_CACHE_HOME: path.join(scratch, 'cache'), ...env },
    encoding: 'utf8',
  })
  return { status, stdout, stderr, json: () => JSON.parse(stdout.trim().split('\n').at(-1)!) }
}

/** A module that is loaded before loram, and changes what it sees of its surroundings. */
function preload(script: string): string[] {
  const file = path.join(scratch, 'preload.cjs')
  writeFileSync(file, script)
  return ['--require', file]
}

const generate = ['generate', '--model', fromRoot('demo/model'), '--prompt', 'a', '--max-new-tokens', '1', '--json']

describe('what is wrong with the addon is said with its remedy', () => {
  test('no binary', () => {
    const { status, json } = loram(generate)
    const { error } = json()
    expect({ status, code: error.code }).toEqual({ status: 4, code: 'E_ADDON' })
    expect(error.found).toContain(`Node ${process.version}, linux-x64, glibc`)
    expect(error.found).toContain('node_modules/loram/build/Release/loram.node: not built')
    expect(error.found).toContain('@loram/cpu-linux-x64: not installed')
    expect(error.remedy).toContain(`npm install @loram/cpu-linux-x64@${version}`)
  })

  test('doctor reports it, and goes on to the rest', () => {
    const { status, json } = loram(['doctor', '--json'])
    expect(status).toBe(4)
    expect(json()).toMatchObject({
      node: process.version,
      addon: { usable: false, remedy: expect.stringContaining('npm install') },
      cuda: { usable: false, attempts: [] },
      device: 'none',
    })
    expect(loram(['doctor']).stdout).toMatch(/^remedy +npm install @loram\/cpu-linux-x64@/m)
  })

  test('an addon of another version', () => {
    addAddon(patched(version, older))
    const { error } = loram(generate).json()
    expect(error.found).toContain(`loram.node: built for loram ${older}, this is ${version}`)
    expect(error.remedy).toContain(`npm install @loram/cpu-linux-x64@${version}`)
  })

  test('a system that is too old for it', () => {
    addAddon(patched('GLIBC_2.34', 'GLIBC_9.99'))
    const { error } = loram(generate).json()
    expect(error.found).toContain("version `GLIBC_9.99' not found")
    expect(error.remedy).toBe('build it for this system with: npx loram build')
  })

  test('a damaged one', () => {
    addAddon((bytes) => bytes.subarray(0, 32))
    expect(loram(generate).json().error).toMatchObject({
      code: 'E_ADDON',
      found: expect.stringContaining('file too short'),
    })
  })

  test('another libc', () => {
    const musl = preload(`const { getReport } = process.report
      process.report.getReport = () => {
        const report = getReport.call(process.report)
        delete report.header.glibcVersionRuntime
        return report
      }`)
    const { error } = loram(generate, {}, musl).json()
    expect(error.found).toContain('linux-x64, not glibc')
    expect(error.remedy).toContain('node:22-bookworm')
  })

  test('Node that is too old', () => {
    const old = preload(
      "Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '20.18.3' } })",
    )
    const { status, json } = loram(generate, {}, old)
    expect(status).toBe(4)
    expect(json().error).toMatchObject({ code: 'E_NODE', expected: '20.19 or newer', found: '20.18.3' })
  })
})

test('an addon of this version works', () => {
  addAddon()
  expect(loram(generate)).toMatchObject({ status: 0 })
})

test('without a CUDA library, --device cuda says how to get one', () => {
  addAddon()
  const { status, json } = loram([...generate, '--device', 'cuda'])
  expect(status).toBe(4)
  expect(json().error.code).toBe('E_CUDA_NOT_BUILT')
  expect(json().error.found).toContain(
    `@loram/cuda-linux-x64: not installed: npm install @loram/cuda-linux-x64@${version}, or npx loram build --cuda`,
  )
})

describe('a clone of the repository builds what is missing, and installs no package', () => {
  beforeEach(() => mkdirSync(path.join(modules, 'loram/src')))

  test('the addon', () => {
    const { error } = loram(generate).json()
    expect(error.found).toContain('loram/build/Release/loram.node: not built: npm run build:native;')
    expect(error.found).toMatch(/@loram\/cpu-linux-x64: not installed$/)
    expect(error.remedy).toBe('build it for this system with: npm run build:native')
  })

  test('the CUDA library', () => {
    addAddon()
    const remedy = 'loram/build/Release/loram_cuda.so: not built: npm run install:nvcc && npm run build:cuda'
    const { error } = loram([...generate, '--device', 'cuda']).json()
    expect(error.found).toContain(`${remedy};`)
    expect(error.found).not.toContain('npm install')
    expect(loram(['doctor']).stdout).toContain(remedy)
  })
})

const hasCuda = existsSync(fromRoot('build/Release/loram_cuda.so'))
const reason = hasCuda ? '' : ' (skipped: build/Release/loram_cuda.so is not built)'

describe.skipIf(!hasCuda)(`what is wrong with CUDA${reason}`, () => {
  const addCuda = (change?: (bytes: Buffer) => Buffer) => add('cuda-linux-x64', 'loram_cuda.so', change)

  /** Says that the driver is for that version of CUDA; 0, that there is none. */
  function withDriver(cuda: number): NodeJS.ProcessEnv {
    const source = `int cuDriverGetVersion(int* version) { *version = ${cuda}; return 0; }`
    const library = path.join(scratch, 'libcuda.so.1')
    execFileSync('g++', ['-shared', '-fPIC', '-x', 'c', '-', '-o', library], { input: source })
    return { LD_LIBRARY_PATH: scratch }
  }

  test('a driver that is too old', () => {
    addAddon()
    addCuda()
    const env = withDriver(12_000)
    const failure = 'the NVIDIA driver runs CUDA 12.0, this needs 13.0: update the driver'
    const { status, json } = loram([...generate, '--device', 'cuda'], env)
    expect(status).toBe(4)
    expect(json().error).toMatchObject({ code: 'E_CUDA_NOT_BUILT', found: expect.stringContaining(failure) })
    expect(loram(['doctor', '--json'], env).json()).toMatchObject({
      cuda: { usable: false, attempts: expect.arrayContaining([expect.objectContaining({ failure })]) },
      device: 'cpu',
    })
  })

  test('a library of another version', () => {
    addAddon()
    addCuda(patched(version, older))
    expect(loram(['doctor']).stdout).toContain(`loram_cuda.so: built for loram ${older}, this is ${version}`)
  })

  test('a driver that has nothing but its version', () => {
    addAddon()
    addCuda()
    const { cuda } = loram(['doctor', '--json'], withDriver(13_000)).json()
    expect(cuda.usable).toBe(false)
  })
})

describe('loram build says what it lacks', () => {
  beforeEach(() => cpSync(fromRoot('scripts'), path.join(modules, 'loram/scripts'), { recursive: true }))

  test('node-gyp', () => {
    const { status, json } = loram(['build', '--json'])
    expect(status).toBe(4)
    expect(json().error).toMatchObject({
      code: 'E_BUILD',
      message: expect.stringContaining('npm install --save-dev node-gyp'),
    })
  })

  test('nvcc', () => {
    const { json } = loram(['build', '--cuda', '--json'], { CUDA_HOME: '', PATH: '/usr/bin' })
    expect(json().error).toMatchObject({ code: 'E_BUILD', remedy: expect.stringContaining('--install-nvcc') })
  })
})
