import { mkdirSync, readdirSync, readFileSync, renameSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { corpusExamples, type LoadOptions, loadExamples } from '../../src/data/index.ts'
import { byteLevelTokenizer, temporaryDir } from '../tokenizer/tokenizers.ts'

const tokenizer = byteLevelTokenizer()
let folder: string
const notices: string[] = []

beforeEach(() => {
  const home = temporaryDir()
  vi.stubEnv('XDG_CACHE_HOME', home)
  folder = path.join(home, 'loram/tokens')
  notices.length = 0
  return () => vi.unstubAllEnvs()
})

function write(name: string, ...texts: string[]): string {
  const file = path.join(temporaryDir(), name)
  writeFileSync(file, texts.map((text) => JSON.stringify({ text })).join('\n'))
  return file
}

const context = { cache: true, notice: (message: string) => notices.push(message) }

async function load(file: string, options: Partial<LoadOptions> = {}, by = tokenizer) {
  const dataset = await loadExamples(file, by, { sequenceLength: 64, ...options }, context)
  const texts = [...dataset.examples].map(({ ids }) => tokenizer.decode(ids))
  dataset.close()
  return { texts, statistics: dataset.statistics, digest: dataset.digest }
}

const entries = () => readdirSync(folder)

test('the same content is encoded once, wherever it lies', async () => {
  const file = write('a.jsonl', 'one', 'two')
  const first = await load(file)
  const moved = path.join(temporaryDir(), 'b.jsonl')
  renameSync(file, moved)
  const encode = vi.spyOn(tokenizer, 'encode')
  expect(await load(moved)).toEqual(first)
  expect(encode).not.toHaveBeenCalled()
  encode.mockRestore()
  expect(entries()).toHaveLength(1)
})

test('other content, options or tokenizers have entries of their own', async () => {
  const file = write('a.jsonl', 'one', 'two')
  await load(file)
  await load(write('a.jsonl', 'one', 'three'))
  await load(file, { sequenceLength: 32 })
  await load(file, { trainOn: 'all' })
  await load(file, { deduplicate: true })
  await load(file, { evalSplit: 0.1 })
  await load(file, {}, byteLevelTokenizer({ add_bos_token: false }))
  await load(write('a.txt', 'one', 'two'))
  const corpus = await corpusExamples(file, tokenizer, 64, context)
  corpus.close()
  expect(entries()).toHaveLength(9)
})

test('options that say their default, or decide nothing, do not', async () => {
  const file = write('a.jsonl', 'one', 'two')
  await load(file)
  const packing = { packing: true }
  await load(file, { trainOn: 'answers', onBadLine: 'fail', deduplicate: false, evalSplit: 0, ...packing })
  expect(entries()).toHaveLength(1)
})

test('nothing is kept without it, nor where encoding fails', async () => {
  const dataset = await loadExamples(write('a.jsonl', 'one'), tokenizer, { sequenceLength: 64 })
  dataset.close()
  expect(() => entries()).toThrow()
  const bad = path.join(temporaryDir(), 'bad.jsonl')
  writeFileSync(bad, '{"text": "one"}\n{"te')
  await expect(load(bad)).rejects.toMatchObject({ code: 'E_DATA', details: { line: 2 } })
  expect(entries()).toEqual([])
})

test('a damaged entry is made anew, with a notice', async () => {
  const file = write('a.jsonl', 'one', 'two')
  const whole = await load(file)
  const entry = path.join(folder, entries()[0]!)
  const bytes = readFileSync(entry)
  bytes[0]! ^= 1
  writeFileSync(entry, bytes)
  expect(await load(file)).toEqual(whole)
  expect(notices).toEqual([`${entry} is damaged; the data are encoded again`])
  expect(await load(file)).toEqual(whole)
  expect(notices).toHaveLength(1)
})

test('files of killed processes are removed after a day', async () => {
  mkdirSync(folder, { recursive: true })
  for (const name of ['old', 'new']) writeFileSync(path.join(folder, `${name}.tokens.tmp-1`), '')
  utimesSync(path.join(folder, 'old.tokens.tmp-1'), 0, 0)
  await load(write('a.jsonl', 'one'))
  expect(entries().filter((name) => name.includes('tmp'))).toEqual(['new.tokens.tmp-1'])
})

describe('a cache that cannot be written', () => {
  test('is named', async () => {
    writeFileSync(path.join(path.dirname(path.dirname(folder)), 'loram'), 'in the way')
    await expect(load(write('a.jsonl', 'one'))).rejects.toMatchObject({ code: 'E_DISK', details: { file: folder } })
  })
})
