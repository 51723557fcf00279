import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import ts from 'typescript'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { formatPruning, type PruningPlan } from '../../src/formats/pruningJson.ts'
import { blocks, documents, root } from './blocks.ts'

const typescript = blocks.filter(({ language }) => language === 'ts')

test('blocks of TypeScript compile against the built package', () => {
  const sources = new Map(typescript.map((block, i) => [path.join(root, `test/docs/block${i}.ts`), block]))
  const options: ts.CompilerOptions = {
    module: ts.ModuleKind.NodeNext,
    target: ts.ScriptTarget.ES2023,
    lib: ['lib.es2023.d.ts'],
    types: ['node'],
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    noEmit: true,
  }
  const host = ts.createCompilerHost(options)
  const { fileExists, readFile, getSourceFile } = host
  host.fileExists = (file) => sources.has(file) || fileExists(file)
  host.readFile = (file) => sources.get(file)?.text ?? readFile(file)
  host.getSourceFile = (file, ...rest) => {
    const block = sources.get(file)
    return block ? ts.createSourceFile(file, block.text, ts.ScriptTarget.ES2023) : getSourceFile(file, ...rest)
  }
  const program = ts.createProgram([...sources.keys()], options, host)
  const problems = ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const block = file && sources.get(file.fileName)
    const line = file && block && block.line + file.getLineAndCharacterOfPosition(start ?? 0).line
    return `${block?.file}:${line} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`
  })
  expect(typescript.length).toBeGreaterThan(0)
  expect(problems).toEqual([])
})

describe('blocks of JSON and YAML', () => {
  test.each(blocks.filter(({ language }) => language === 'json'))('$file:$line', ({ text }) => {
    expect(JSON.parse(text)).toBeTypeOf('object')
  })

  test.each(blocks.filter(({ language }) => language === 'yaml'))('$file:$line', ({ text }) => {
    expect(parse(text, { merge: true })).toBeTypeOf('object')
  })

  test('pruning.json has the keys that are written', () => {
    const shown = JSON.parse(blocks.find(({ text }) => text.includes('"kv_heads"'))!.text)
    const { source } = shown
    const plan: PruningPlan = {
      method: shown.method,
      ratio: shown.ratio,
      layers: shown.layers,
      seed: shown.seed,
      source: {
        name: source.name,
        fingerprint: source.fingerprint,
        hiddenSize: source.hidden_size,
        intermediateSize: source.intermediate_size,
        numHiddenLayers: source.num_hidden_layers,
        numAttentionHeads: source.num_attention_heads,
        numKeyValueHeads: source.num_key_value_heads,
        headDim: source.head_dim,
      },
      kept: [{ layer: 1, channels: shown.kept[0].channels, kvHeads: shown.kept[0].kv_heads }],
    }
    const written = JSON.parse(formatPruning(plan))
    expect({ ...shown, checksum: written.checksum }).toEqual(written)
  })
})

test('no block has a language that is not checked', () => {
  const languages = new Set(blocks.map(({ language }) => language))
  expect([...languages].filter((language) => !['sh', 'ts', 'json', 'yaml', 'text'].includes(language))).toEqual([])
})

describe('links', () => {
  test.each(documents)('of %s lead somewhere', (document) => {
    const text = readFileSync(path.join(root, document), 'utf8')
    const targets = Array.from(text.matchAll(/\]\(([^)#]+)[^)]*\)/g), ([, target]) => target!)
    const files = targets.filter((target) => !target.startsWith('https://'))
    expect(files.filter((target) => !existsSync(path.join(root, path.dirname(document), target)))).toEqual([])
  })
})
