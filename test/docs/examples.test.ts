import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { scratchFolder } from '../formats/scratch.ts'
import { root } from './blocks.ts'

const scratch = scratchFolder()

const adapter = path.join(scratch, 'train')

/** In this order: generation uses the adapter that training made. */
const examples: readonly (readonly [name: string, args: string[], output: RegExp])[] = [
  ['train.mjs', [adapter], /^adapter in .+ after 20 steps$/m],
  ['generate.mjs', [adapter], /^perplexity [\d.]+ over \d+ tokens of answers$/m],
  [
    'plan.mjs',
    [],
    /^with 64 MB: recompute \{ none: 0, cheap: \d, full: \d, offloaded: 0, offloadedOutputs: 0 \}\n\[E_MEMORY\]/m,
  ],
  ['stages.mjs', [path.join(scratch, 'stages')], /^perplexity [\d.]+ with the adapter, [\d.]+ merged$/m],
  ['resume.mjs', [path.join(scratch, 'resume')], /^E_ABORTED\nwent on with step \d+, ended with step 10$/m],
  ['ops.mjs', [], /^step 200, loss 0\.00\d+$/m],
]

describe('examples', () => {
  test.each(examples)('%s', (name, args, output) => {
    const printed = execFileSync(process.execPath, [path.join('examples', name), ...args], {
      cwd: root,
      encoding: 'utf8',
    })
    expect(printed).toMatch(output)
  })

  test('all are run and listed', () => {
    const names = readdirSync(path.join(root, 'examples')).filter((name) => name.endsWith('.mjs'))
    expect(examples.map(([name]) => name).sort()).toEqual(names.sort())
    const list = readFileSync(path.join(root, 'examples/README.md'), 'utf8')
    const configurations = readdirSync(path.join(root, 'examples')).filter((name) => name.endsWith('.yaml'))
    for (const name of [...names, ...configurations]) expect(list).toContain(`[${name}](${name})`)
  })
})
