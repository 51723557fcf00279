import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { expectTensors, fingerprint, openCheckpoint, writeCheckpoint } from '../../src/formats/huggingFace.ts'
import type { TensorSource } from '../../src/formats/safetensors.ts'
import { expectedTensors, parseConfig } from '../../src/model/config.ts'
import { goldenPath } from '../golden.ts'
import { plan } from './pruningPlan.ts'
import { expectError, scratchFolder } from './scratch.ts'

const sharded = goldenPath('models', 'llama2')
const single = goldenPath('models', 'llama3')
const scratch = scratchFolder()
const dir = path.join(scratch, 'model')
const at = (name: string) => path.join(dir, name)
const indexName = 'model.safetensors.index.json'

beforeEach(() => {
  rmSync(scratch, { recursive: true, force: true })
  mkdirSync(scratch)
})

const copy = (from: string) => cpSync(from, dir, { recursive: true })
const entriesOf = ({ tensors }: TensorSource) =>
  [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape }))

/** Opens `dir`, and closes it again. */
function inspect<T>(look: (checkpoint: ReturnType<typeof openCheckpoint>) => T): T {
  const checkpoint = openCheckpoint(dir)
  try {
    return look(checkpoint)
  } finally {
    checkpoint.close()
  }
}

function edit(name: string, text: string, replacement: string): void {
  writeFileSync(at(name), readFileSync(at(name), 'utf8').replace(text, replacement))
}

test.each([sharded, single])('%s has the tensors of its config.json', (from) => {
  const checkpoint = openCheckpoint(from)
  const expected = expectedTensors(parseConfig(checkpoint.configJson, checkpoint.configFile))
  expect(expectTensors(checkpoint, expected)).toEqual([])
  expect(checkpoint.tensors.size).toBe(expected.size)
  for (const [name, { bytes }] of checkpoint.tensors) expect(checkpoint.read(name)).toHaveLength(bytes)
  checkpoint.close()
})

test('a single file wins over an index', () => {
  copy(sharded)
  cpSync(path.join(single, 'model.safetensors'), at('model.safetensors'))
  expect(inspect(({ tensors }) => tensors.has('model.layers.2.mlp.up_proj.weight'))).toBe(false)
})

describe('an index', () => {
  const shard = 'model-00001-of-00004.safetensors'
  /** Makes the index say that lm_head.weight lies in `to`. */
  const lead = (to: string) =>
    edit(indexName, '"lm_head.weight": "model-00004-of-00004.safetensors"', `"lm_head.weight": ${JSON.stringify(to)}`)
  const add = (entry: string) => edit(indexName, '"weight_map": {', `$&${entry},`)
  const outside = path.join(scratch, 'outside.safetensors')

  beforeEach(() => {
    copy(sharded)
    cpSync(at(shard), outside)
  })

  test.each(['../../etc/passwd', '../outside.safetensors', '..', '.', '', 'a/b', 'a\0b', '/etc/passwd', outside])(
    'that leads to %j is refused, and the file not opened',
    (to) => {
      lead(to)
      expectError(() => inspect(() => 0), 'E_PATH', { file: to })
    },
  )

  test('that leads through a link to a file outside is refused', () => {
    rmSync(at(shard))
    symlinkSync(outside, at(shard))
    expectError(() => inspect(() => 0), 'E_PATH', { file: shard, found: outside })
  })

  test('in the Hugging Face cache leads through links to blobs', () => {
    const blobs = path.join(scratch, 'hub', 'blobs')
    const snapshot = path.join(scratch, 'hub', 'snapshots', 'main')
    mkdirSync(snapshot, { recursive: true })
    renameSync(dir, blobs)
    for (const name of readdirSync(blobs)) symlinkSync(`../../blobs/${name}`, path.join(snapshot, name))
    const checkpoint = openCheckpoint(snapshot)
    expect(checkpoint.tensors.size).toBe(30)
    checkpoint.close()
  })

  test('whose shard is missing is refused', () => {
    rmSync(at(shard))
    expectError(() => inspect(() => 0), 'E_INDEX', { found: expect.stringContaining(shard) })
  })

  test('with a tensor that its file does not hold is refused', () => {
    lead(shard)
    expectError(() => inspect(() => 0), 'E_INDEX', { tensor: 'lm_head.weight', found: expect.stringContaining(shard) })
  })

  test('with a tensor that no file holds is refused', () => {
    add(`"model.layers.3.extra": "${shard}"`)
    expectError(() => inspect(() => 0), 'E_INDEX', { tensor: 'model.layers.3.extra' })
  })

  test('with a tensor in two shards is refused', () => {
    cpSync(at(shard), at('copy.safetensors'))
    lead('copy.safetensors')
    expectError(() => inspect(() => 0), 'E_INDEX', { found: expect.stringContaining('two shards') })
  })

  test('that names a tensor twice is refused', () => {
    add(`"lm_head.weight": "${shard}"`)
    expectError(() => inspect(() => 0), 'E_INDEX', { found: expect.stringContaining('twice') })
  })

  test.each(['', '[]', '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": 1}}'])(
    'that reads %j is refused',
    (text) => {
      writeFileSync(at(indexName), text)
      expectError(() => inspect(() => 0), 'E_INDEX')
    },
  )
})

describe('a folder', () => {
  test('that does not exist is refused', () => {
    expectError(() => openCheckpoint(at('none')), 'E_FILE', { file: at('none') })
  })

  test('without config.json is refused', () => {
    copy(single)
    rmSync(at('config.json'))
    expectError(() => inspect(() => 0), 'E_MODEL', { file: at('config.json') })
  })

  test('that holds an adapter is refused as a model', () => {
    const remedy = expect.stringContaining('base model')
    expectError(() => openCheckpoint(goldenPath('lora', 'adapter')), 'E_MODEL', { remedy })
  })

  test.each(['{', '[]', 'null'])('whose config.json is %j is refused', (text) => {
    copy(single)
    writeFileSync(at('config.json'), text)
    expectError(() => inspect(() => 0), 'E_FILE', { file: at('config.json') })
  })

  test.each(['pytorch_model.bin', 'consolidated.00.pth'])('with no weights but %s is refused', (pickle) => {
    copy(single)
    renameSync(at('model.safetensors'), at(pickle))
    const details = { found: expect.stringContaining(pickle), remedy: expect.stringContaining('convert') }
    expectError(() => inspect(() => 0), 'E_FILE', details)
  })
})

describe('tensors that are not as expected', () => {
  const expected = () => new Map(inspect(({ tensors }) => [...tensors].map(([name, { shape }]) => [name, shape])))
  const check = (changed: Map<string, number[]>) => inspect((checkpoint) => expectTensors(checkpoint, changed))

  beforeEach(() => copy(single))

  test('are listed, ten at most', () => {
    const missing = Array.from({ length: 12 }, (_, i) => [`missing.${i}`, [1]] as [string, number[]])
    const changed = new Map([...expected(), ['model.norm.weight', [63]] as [string, number[]], ...missing])
    const found = expect.stringMatching(
      /^model.norm.weight is \[64], not \[63]; missing.0 is missing.*; missing.8 .*; and 3 more$/,
    )
    expectError(() => check(changed), 'E_SHAPE', { found })
  })

  test('give a warning if they are too many, but not for what old files carry', () => {
    const changed = expected()
    changed.delete('model.norm.weight')
    expect(check(changed)).toEqual([expect.stringContaining('model.norm.weight')])
    const entries = inspect(entriesOf)
    const inverse = { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', dtype: 'f32', shape: [1] } as const
    const source = openCheckpoint(single)
    const data = (name: string) => (name === inverse.name ? new Uint8Array(4) : source.read(name))
    rmSync(dir, { recursive: true })
    writeCheckpoint(dir, { configJson: source.configJson, entries: [...entries, inverse], data })
    source.close()
    expect(check(new Map(entries.map(({ name, shape }) => [name, shape])))).toEqual([])
  })

  test('in the embedding mean that config.json has another vocabulary', () => {
    const details = { field: expect.stringContaining('vocab_size'), expected: '[161, 64]', found: '[160, 64]' }
    expectError(() => check(expected().set('model.embed_tokens.weight', [161, 64])), 'E_MODEL', details)
  })

  test('in dtype are refused', () => {
    rmSync(dir, { recursive: true })
    writeCheckpoint(dir, {
      configJson: {},
      entries: [{ name: 'x', dtype: 'i32', shape: [1] }],
      data: () => new Uint8Array(4),
    })
    expectError(() => check(new Map([['x', [1]]])), 'E_DTYPE', { tensor: 'x' })
  })
})

describe('a written checkpoint', () => {
  const write = (options: Partial<Parameters<typeof writeCheckpoint>[1]> = {}) => {
    const source = openCheckpoint(single)
    try {
      writeCheckpoint(dir, { configJson: source.configJson, entries: entriesOf(source), data: source.read, ...options })
      return fingerprint(source)
    } finally {
      source.close()
    }
  }

  test('is read back, with what belongs to it', () => {
    const print = write({ copyFrom: single, pruning: plan })
    expect(inspect(fingerprint)).toBe(print)
    expect(inspect(({ pruning }) => pruning)).toEqual(plan)
    const names = ['config.json', 'generation_config.json', 'model.safetensors', 'pruning.json']
    expect(readdirSync(dir).sort()).toEqual(names)
    expect(readdirSync(scratch)).toEqual(['model'])
  })

  test('is cut into shards of at most the size given', () => {
    const print = write({ maxShardBytes: 100_000 })
    expect(inspect(fingerprint)).toBe(print)
    const shards = readdirSync(dir).filter((name) => name.endsWith('.safetensors'))
    expect(shards.length).toBeGreaterThan(1)
    expect(shards).toContain(`model-00001-of-0000${shards.length}.safetensors`)
    for (const name of shards) expect(readFileSync(at(name)).length).toBeLessThan(100_000 + 4096)
    const { metadata } = JSON.parse(readFileSync(at(indexName), 'utf8'))
    expect(metadata.total_size).toBe(
      inspect(({ tensors }) => [...tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)),
    )
  })

  test('does not mix with files that are there', () => {
    mkdirSync(dir)
    writeFileSync(at('notes.txt'), 'mine')
    expectError(write, 'E_FILE', { file: dir })
    expect(readdirSync(dir)).toEqual(['notes.txt'])
  })

  test('leaves nothing if its data cannot be had', () => {
    const data = () => {
      throw new Error('no data')
    }
    expect(() => write({ data })).toThrow('no data')
    expect(readdirSync(scratch)).toEqual([])
  })
})

test('a fingerprint follows names, shapes and values, not files', () => {
  copy(single)
  const before = inspect(fingerprint)
  const file = readFileSync(at('model.safetensors'))
  file[file.length - 1]! ^= 1
  writeFileSync(at('model.safetensors'), file)
  const after = inspect(fingerprint)
  expect(before).toMatch(/^sha256:[0-9a-f]{64}$/)
  expect(after).not.toBe(before)
})
