// Packs what is published, from a built tree:  node scripts/pack.mjs [folder, default build/packages]
//   loram                  TypeScript's output alone: no install script, no binding.gyp
//   @loram/cpu-linux-x64   the addon, which loram names as an optional dependency
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** What the addon may need of the system it runs on; docs/installation.md says which systems have it. */
const newest = { GLIBC: '2.34', GLIBCXX: '3.4.30', CXXABI: '1.3.13', GCC: '12.0.0' }

const root = fileURLToPath(new URL('..', import.meta.url))
const out = path.resolve(process.argv[2] ?? path.join(root, 'build/packages'))
const { scripts, devDependencies, binary, gypfile, ...manifest } = JSON.parse(
  readFileSync(path.join(root, 'package.json'), 'utf8'),
)
const { version, license, engines, repository } = manifest
const addon = 'build/Release/loram.node'

checkSymbolVersions()
rmSync(out, { recursive: true, force: true })
const platform = '@loram/cpu-linux-x64'
pack('loram', manifest.files, { ...manifest, optionalDependencies: { [platform]: version } })
pack('cpu-linux-x64', [addon, 'LICENSE'], {
  name: platform,
  version,
  description: 'The native addon of loram for Linux on x64.',
  license,
  ...(repository && { repository }),
  engines,
  os: ['linux'],
  cpu: ['x64'],
  libc: ['glibc'],
  type: 'commonjs',
  main: addon,
  files: [addon, 'LICENSE'],
})

/** Copies `files` into a folder of their own and makes a tarball of it. */
function pack(name, files, packageJson) {
  const folder = path.join(out, name)
  mkdirSync(folder, { recursive: true })
  for (const file of files) cpSync(path.join(root, file), path.join(folder, file), { recursive: true })
  writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(packageJson, null, 2)}\n`)
  const packed = execFileSync('npm', ['pack', '--silent', '--pack-destination', out], { cwd: folder, encoding: 'utf8' })
  console.log(path.join(out, packed.trim()))
}

/** Fails where the addon was built on a system so new that it would not load on those it is meant for. */
function checkSymbolVersions() {
  const symbols = execFileSync('objdump', ['-T', path.join(root, addon)], { encoding: 'utf8' })
  for (const [, library, needed] of symbols.matchAll(/\((GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)\)/g)) {
    if (needed.localeCompare(newest[library], undefined, { numeric: true }) <= 0) continue
    throw new Error(
      `${addon} needs ${library}_${needed}; at most ${newest[library]} is promised. Build it on Debian 12.`,
    )
  }
}
