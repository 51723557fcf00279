import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { fromRoot, installPacked, type Project } from './project.ts'

// .ci/run sets it: each build takes a minute
const isAsked = process.env.LORAM_TEST_BUILD !== undefined
const reason = isAsked ? '' : ' (skipped: LORAM_TEST_BUILD is not set)'
const minutes = { timeout: 600_000 }

describe.skipIf(!isAsked)(`in a project with the packed tarballs${reason}`, () => {
  let project: Project
  beforeAll(() => {
    project = installPacked(fromRoot('node_modules/node-gyp'), fromRoot('node_modules/node-addon-api'))
    rmSync(path.join(project.folder, 'node_modules/@loram'), { recursive: true })
  }, 180_000)
  const lastLine = (text: string) => JSON.parse(text.trim().split('\n').at(-1)!)

  test('loram build makes the addon that is then taken', minutes, () => {
    const { built } = lastLine(project.run('npx', '--no-install', 'loram', 'build', '--json'))
    expect(built).toEqual([path.join(project.folder, 'node_modules/loram/build/Release/loram.node')])
    const { addon } = lastLine(project.run('npx', '--no-install', 'loram', 'doctor', '--json'))
    expect(addon).toMatchObject({ usable: true, attempts: [{ file: built[0] }] })
    rmSync(path.join(project.folder, 'node_modules/loram/build'), { recursive: true })
  })

  test('where the package is read-only, in a folder of the user', minutes, () => {
    const nobody = 65_534
    const home = path.join(path.dirname(project.folder), 'home')
    mkdirSync(home)
    if (process.getuid!() === 0) chownSync(home, nobody, nobody)
    chmodSync(path.dirname(project.folder), 0o755)
    execFileSync('chmod', ['-R', 'a-w', path.join(project.folder, 'node_modules/loram')])
    const loram = (...args: string[]) =>
      lastLine(
        execFileSync(process.execPath, ['node_modules/loram/dist/cli/main.js', ...args, '--json'], {
          cwd: project.folder,
          env: {
            ...process.env,
            CCACHE_DISABLE: '1',
            HOME: home,
            TMPDIR: home,
            XDG_CACHE_HOME: path.join(home, 'cache'),
          },
          ...(process.getuid!() === 0 && { uid: nobody, gid: nobody }), // root writes anywhere
          encoding: 'utf8',
        }),
      )
    const { built } = loram('build')
    expect(built[0].startsWith(path.join(home, 'cache/loram'))).toBe(true)
    expect(loram('doctor').addon.attempts.at(-1)).toEqual({ file: built[0] })
  })

  test('pnpm, which keeps packages apart, installs them', minutes, () => {
    const folder = path.join(path.dirname(project.folder), 'with pnpm')
    mkdirSync(folder)
    const tarballs = path.join(project.folder, 'tarballs')
    const dependencies = Object.fromEntries(
      readdirSync(tarballs)
        .filter((name) => name.endsWith('.tgz'))
        .map((name) => [name.replace(/-[\d.]+\.tgz$/, '').replace('loram-', '@loram/'), `file:${tarballs}/${name}`]),
    )
    // As a registry would: loram's own dependency comes from the tarball too
    const manifest = { name: 'project', private: true, dependencies, pnpm: { overrides: dependencies } }
    writeFileSync(path.join(folder, 'package.json'), JSON.stringify(manifest))
    const run = (command: string, ...args: string[]) => execFileSync(command, args, { cwd: folder, encoding: 'utf8' })
    run('npx', '--yes', 'pnpm@10', 'install', '--ignore-scripts', '--prefer-offline')
    writeFileSync(
      path.join(folder, 'import.mjs'),
      "import { cpu, zeros } from 'loram/ops'\nconsole.log(zeros(cpu, [2], 'f32').read().length)",
    )
    expect(run('node', 'import.mjs').trim()).toBe('2')
    const { addon, cuda } = lastLine(run('node', 'node_modules/loram/dist/cli/main.js', 'doctor', '--json'))
    expect(addon.attempts.at(-1).file).toContain('@loram/cpu-linux-x64')
    const found = cuda.attempts.some(
      ({ file }: { file: string }) => file.endsWith('.so') && file.includes('@loram/cuda'),
    )
    expect(found).toBe('@loram/cuda-linux-x64' in dependencies)
  })
})
