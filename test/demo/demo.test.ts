import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { type LargeModel, loadModel } from 'loram'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { scratchFolder } from '../formats/scratch.ts'

const at = (...parts: string[]) => path.join(fileURLToPath(new URL('../..', import.meta.url)), ...parts)

describe('the shipped model and data', () => {
  let model: LargeModel
  beforeAll(async () => {
    model = await loadModel(at('demo/model'))
  })
  afterAll(() => model.close())

  const share = async (exercises: readonly (readonly [prompt: string, answer: string])[]) => {
    const replies = await Promise.all(exercises.map(([prompt]) => model.complete(prompt, { maxNewTokens: 8 })))
    return replies.filter(({ text }, i) => text === exercises[i]![1]).length / exercises.length
  }
  const words = ['kdaf', 'moxe', 'zibra', 'qunto', 'lav', 'wypse', 'hajit', 'corv', 'nufek', 'begol']
  const shift = (letter: string) => String.fromCharCode(97 + ((letter.charCodeAt(0) - 96) % 26))

  test.each([
    ['rev', (word: string) => [...word].reverse().join('')],
    ['sort', (word: string) => [...word].sort().join('')],
    ['next', (word: string) => [...word].map(shift).join('')],
  ])('knows %s in both notations of its pre-training', async (name, answer) => {
    const exercises = words.flatMap((word) => [
      [`${name}(${word})=`, answer(word)] as const,
      [`${word}|${name}:`, answer(word)] as const,
    ])
    expect(await share(exercises)).toBeGreaterThanOrEqual(0.8)
  })

  test('knows the colours that fine-tuning asks for in English', async () => {
    const questions = linesOf('test').filter(({ prompt }) => prompt.startsWith('which colour'))
    const terse = questions.map(({ prompt, completion }) => [`hue(${prompt.split(' ')[3]})=`, completion] as const)
    expect(terse.length).toBe(40)
    expect(await share(terse)).toBeGreaterThanOrEqual(0.9)
  })

  test('fine-tuning sees no operand that is evaluated', () => {
    const operandOf = ({ prompt }: { prompt: string }) =>
      prompt.replace(/^(write|put the letters of|move|how much is|which colour has) /, '').split(' ')[0]
    const trained = new Set(linesOf('train').map((line) => `${line.prompt.slice(0, 4)} ${operandOf(line)}`))
    expect(trained.size).toBeGreaterThan(1000)
    for (const line of linesOf('test')) expect(trained).not.toContain(`${line.prompt.slice(0, 4)} ${operandOf(line)}`)
  })

  test('take at most 4 MB', () => {
    const files = readdirSync(at('demo'), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
    const bytes = files.reduce((sum, { parentPath, name }) => sum + statSync(path.join(parentPath, name)).size, 0)
    expect(bytes).toBeLessThanOrEqual(4_000_000)
  })
})

test('what scripts import is there', () => {
  const scripts = readdirSync(at('scripts/demo')).filter((name) => name.endsWith('.mjs'))
  expect(scripts).toContain('pretrain.mjs')
  // all modules are linked before the first of them runs, and that one ends the process
  const imports = ['data:text/javascript,process.exit()', ...scripts.map((name) => at('scripts/demo', name))]
  const program = imports.map((name) => `import ${JSON.stringify(name)}`).join('\n')
  execFileSync(process.execPath, ['--input-type=module', '--eval', program])
})

describe('npm run demo -- --quick --json', () => {
  const output = scratchFolder()
  let stdout: string
  beforeAll(() => {
    const args = [at('scripts/demo.mjs'), '--quick', '--json', '--output', path.join(output, 'out')]
    stdout = execFileSync(process.execPath, args, { cwd: at(), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  }, 120_000)

  test('ends with a line of numbers about every model', () => {
    const { rows, seconds } = JSON.parse(stdout.trimEnd().split('\n').at(-1)!)
    expect(Object.keys(rows)).toEqual(['base', 'pruned', 'aligned', 'trainedSmall', 'recovered', 'fullLora'])
    for (const row of Object.values<Record<string, number>>(rows)) {
      expect(row.perplexity).toBeGreaterThan(1)
      expect(row.exactMatch).toBeGreaterThanOrEqual(0)
      expect(row.exactMatch).toBeLessThanOrEqual(1)
    }
    expect(rows.pruned.parameters).toBeLessThan(rows.base.parameters)
    expect(rows.recovered.parameters).toBe(rows.fullLora.parameters)
    expect(rows.base.bytes).toBe(statSync(at('demo/model/model.safetensors')).size)
    expect(seconds).toBeGreaterThan(0)
  })

  test('begins with the plan that README.md shows', () => {
    const plan = stdout.split('\n').slice(0, 3).join('\n')
    expect(plan).toMatch(/^LoRA training in NF4/)
    expect(readFileSync(at('README.md'), 'utf8')).toContain(plan)
  })

  test('prints the same numbers as a table', () => {
    expect(stdout).toMatch(/^large, LoRA recovered from pruned +[\d.]+ +\d+ %/m)
  })

  test('writes a PEFT adapter for the large model', () => {
    const config = JSON.parse(readFileSync(path.join(output, 'out/loram/adapter_config.json'), 'utf8'))
    expect(config.peft_type).toBe('LORA')
    expect(existsSync(path.join(output, 'out/loram/adapter_model.safetensors'))).toBe(true)
  })

  test('writes a report that needs nothing from outside of it', () => {
    const html = readFileSync(path.join(output, 'out/report.html'), 'utf8')
    for (const part of ['Loss of alignment', 'Loss of training', 'Before training']) expect(html).toContain(part)
    expect(html).not.toMatch(/\b(src|href)\s*=|@import|url\(|https?:|fetch\(|import\(/)
  })
})

function linesOf(name: string): { prompt: string; completion: string }[] {
  const text = readFileSync(at('demo/data', `${name}.jsonl`), 'utf8')
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
}
