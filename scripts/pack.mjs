// Packs what is published, from a built tree:  node scripts/pack.mjs [folder, default build/packages]
// The repository's own package.json is private, so that nothing else is published by mistake.
//   loram                   TypeScript's output, and the native sources for `loram build`. No install script, and no
//                           binding.gyp at its root, which npm would build
//   @loram/cpu-linux-x64    the addon, which loram names as an optional dependency
//   @loram/cuda-linux-x64   the CUDA library, where it was built; users add it
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** What libraries may need of the system they run on; docs/installation.md says which systems have it. */
const newest = { GLIBC: '2.34', GLIBCXX: '3.4.30', CXXABI: '1.3.13', GCC: '12.0.0' }

/** Registries refuse what is much larger. */
const largestTarball = 80e6

const root = fileURLToPath(new URL('..', import.meta.url))
const out = path.resolve(process.argv[2] ?? path.join(root, 'build/packages'))
const {
  private: _,
  scripts,
  devDependencies,
  binary,
  gypfile,
  ...manifest
} = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
const { version, license, engines, repository } = manifest
const [addon, cudaLibrary] = ['build/Release/loram.node', 'build/Release/loram_cuda.so']
const [addonPackage, cudaPackage] = ['@loram/cpu-linux-x64', '@loram/cuda-linux-x64']

/** What `loram build` runs. */
const sources = [
  'native',
  'native/binding.gyp',
  ...['sources', 'build-native', 'build-cuda', 'install-nvcc'].map((name) => `scripts/${name}.mjs`),
]

/** Named so that package managers which keep packages apart show them to loram. */
const peers = {
  [cudaPackage]: version,
  'node-addon-api': `^${devDependencies['node-addon-api']}`,
  'node-gyp': devDependencies['node-gyp'],
}

rmSync(out, { recursive: true, force: true })
pack('loram', [...manifest.files, ...sources], {
  ...manifest,
  files: [...manifest.files, ...sources],
  optionalDependencies: { [addonPackage]: version },
  peerDependencies: peers,
  peerDependenciesMeta: Object.fromEntries(Object.keys(peers).map((name) => [name, { optional: true }])),
})
packLibrary(addonPackage, 'The native addon of loram for Linux on x64.', [addon, 'LICENSE'])
if (existsSync(path.join(root, cudaLibrary))) {
  const files = [cudaLibrary, 'LICENSE', 'native/cuda/NOTICE']
  packLibrary(cudaPackage, 'The CUDA ops of loram for Linux on x64, with the CUDA runtime.', files)
}

/** A package of one library, the first of `files`, which is what resolving the package gives. */
function packLibrary(name, description, files) {
  const [library] = files
  checkSymbolVersions(library)
  pack(path.basename(name), files, {
    ...{ name, version, description, license },
    ...(repository && { repository }),
    engines,
    os: ['linux'],
    cpu: ['x64'],
    libc: ['glibc'],
    type: 'commonjs',
    main: library,
    files,
    publishConfig: { access: 'public' },
  })
}

/** Copies `files` into a folder of their own and makes a tarball of it. */
function pack(name, files, packageJson) {
  const folder = path.join(out, name)
  mkdirSync(folder, { recursive: true })
  const originOf = (file) => (file === 'native/binding.gyp' ? 'binding.gyp' : file)
  for (const file of files) cpSync(path.join(root, originOf(file)), path.join(folder, file), { recursive: true })
  writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(packageJson, null, 2)}\n`)
  const packed = execFileSync('npm', ['pack', '--silent', '--pack-destination', out], { cwd: folder, encoding: 'utf8' })
  const tarball = path.join(out, packed.trim())
  const { size } = statSync(tarball)
  if (size > largestTarball) throw new Error(`${tarball} has ${size} bytes, of at most ${largestTarball}`)
  console.log(tarball)
}

/** Fails where a library was built on a system so new that it would not load on those it is meant for. */
function checkSymbolVersions(library) {
  const symbols = execFileSync('objdump', ['-T', path.join(root, library)], { encoding: 'utf8' })
  for (const [, from, needed] of symbols.matchAll(/\((GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)\)/g)) {
    if (needed.localeCompare(newest[from], undefined, { numeric: true }) <= 0) continue
    throw new Error(`${library} needs ${from}_${needed}; at most ${newest[from]} is promised. Build it on Debian 12.`)
  }
}
