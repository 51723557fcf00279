import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { fromRoot, installPacked, type Project } from './project.ts'

const quantize = `
  const weight = quantizeNf4(tensorFrom(cpu, new Float32Array(128).fill(0.5), [2, 64]))
  console.log(dequantizeNf4(weight, 'f32').read().every((value) => Math.abs(value - 0.5) < 1e-3))`

describe('the packed tarballs in an empty project', () => {
  let project: Project
  beforeAll(() => {
    project = installPacked()
  }, 180_000)

  test('hold no install script and no binding.gyp at the root, and the sources of the addon', () => {
    const manifest = JSON.parse(readFileSync(path.join(project.folder, 'node_modules/loram/package.json'), 'utf8'))
    expect(manifest.scripts).toBeUndefined()
    expect(manifest.optionalDependencies).toEqual({ '@loram/cpu-linux-x64': manifest.version })
    const listed = project.run('tar', '-tzf', `tarballs/loram-${manifest.version}.tgz`).split('\n')
    expect(listed).toContain('package/dist/index.js')
    expect(listed).toEqual(
      expect.arrayContaining(['native/binding.gyp', 'scripts/build-native.mjs'].map((name) => `package/${name}`)),
    )
    expect(listed.filter((name) => /^package\/([^/]+\.gyp|src|test|native\/build)|\.(node|o)$/.test(name))).toEqual([])
  })

  test('are imported', () => {
    const script = `import { cpu, dequantizeNf4, quantizeNf4, tensorFrom } from 'loram/ops'
      import { LoramError, trainLoRAM } from 'loram'
      console.log(typeof trainLoRAM, new LoramError('E_X', 'x').code)
      ${quantize}`
    expect(project.node('import.mjs', script)).toBe('function E_X\ntrue')
  })

  test('are required', () => {
    const script = `const { cpu, dequantizeNf4, quantizeNf4, tensorFrom } = require('loram/ops')
      console.log(typeof require('loram').trainLoRAM)
      ${quantize}`
    expect(project.node('require.cjs', script)).toBe('function\ntrue')
  })

  test('are loaded by two threads at once', () => {
    const worker = `import { cpu, dequantizeNf4, quantizeNf4, tensorFrom } from 'loram/ops'
      ${quantize}`
    writeFileSync(path.join(project.folder, 'worker.mjs'), worker)
    const script = `import { Worker } from 'node:worker_threads'
      const ended = () => new Promise((resolve) => new Worker('./worker.mjs').on('exit', resolve))
      console.log(...(await Promise.all([ended(), ended()])))`
    expect(project.node('threads.mjs', script).split('\n').sort()).toEqual(['0 0', 'true', 'true'])
  })

  test('run their work in a thread of their own, and say what is wrong', () => {
    const script = `import { loadModel } from 'loram'
      await loadModel('./no-model').catch((error) => console.log(error.name, error.code))`
    expect(project.node('error.mjs', script)).toBe('FileError E_FILE')
  })

  test('bring the command', () => {
    const help = project.run('npx', '--no-install', 'loram', '--help')
    expect(help).toMatch(/^Usage: loram/)
    expect(
      JSON.parse(project.run('npx', '--no-install', 'loram', 'doctor', '--json').trim().split('\n').at(-1)!),
    ).toBeTypeOf('object')
  })

  test('have types that compile under every strictness', () => {
    const source = `import { type RunEvent, trainLoRAM, type TrainResult } from 'loram'
      import { gemm, type Tensor } from 'loram/ops'
      export async function train(): Promise<TrainResult> {
        const run = trainLoRAM({ model: 'm', data: { train: 'd.jsonl' }, prune: { ratio: 0.5 }, output: 'o' })
        for await (const event of run) log(event)
        return await run
      }
      function log(event: RunEvent): void {
        if (event.type === 'step') console.log(event.loss.toFixed(3))
      }
      export const product = (a: Tensor, b: Tensor, c: Tensor) => gemm(a, b, c, { transposeB: true })
      // @ts-expect-error there is no such option
      export const wrong = () => trainLoRAM({ model: 'm', data: { train: 'd' }, output: 'o', rank: 8 })`
    writeFileSync(path.join(project.folder, 'typed.ts'), source)
    const compilerOptions = {
      module: 'nodenext',
      target: 'es2023',
      strict: true,
      exactOptionalPropertyTypes: true,
      noEmit: true,
      types: ['node'],
      typeRoots: [fromRoot('node_modules/@types')],
    }
    writeFileSync(path.join(project.folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['typed.ts'] }))
    expect(project.run(process.execPath, fromRoot('node_modules/typescript/bin/tsc'))).toBe('')
  })
})
