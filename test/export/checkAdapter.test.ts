import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkAdapter } from '../../src/api/checkAdapter.ts'
import { adapterRules, type Consumer, consumers } from '../../src/export/adapterRules.ts'
import { openSafetensors, type TensorEntry, writeSafetensors } from '../../src/formats/safetensors.ts'
import { lastLine, loram } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'

const dir = scratchFolder()
const golden = goldenPath('lora', 'adapter-after-3-steps')
const base = goldenPath('models', 'llama3')
const prefix = 'base_model.model.model.layers.0.'
const head = 'base_model.model.lm_head.'
let copies = 0

interface Changes {
  config?: Record<string, unknown>
  /** Tensors to add, by name; all of zeros. */
  add?: Record<string, number[]>
  remove?: string
  metadata?: Record<string, string>
}

/** The golden adapter, changed. */
function changed({ config = {}, add = {}, remove, metadata }: Changes): string {
  const copy = path.join(dir, `adapter-${copies++}`)
  cpSync(golden, copy, { recursive: true })
  const file = path.join(copy, 'adapter_config.json')
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...config }))
  const source = openSafetensors(path.join(golden, 'adapter_model.safetensors'))
  const kept = Array.from(source.tensors, ([name, { dtype, shape }]): TensorEntry => ({ name, dtype, shape }))
  const added = Object.entries(add).map(([name, shape]): TensorEntry => ({ name, dtype: 'f32', shape }))
  const entries = [...kept.filter(({ name }) => name !== remove), ...added]
  const data = (name: string) =>
    source.tensors.has(name) ? source.read(name) : new Uint8Array(4 * elements(add[name]!))
  writeSafetensors(path.join(copy, 'adapter_model.safetensors'), entries, data, { format: 'pt', ...metadata })
  source.close()
  return copy
}
const elements = (shape: number[]) => shape.reduce((a, b) => a * b, 1)
const pair = (module: string, inputs: number, out: number, rank = 4) => ({
  [`${module}lora_A.weight`]: [rank, inputs],
  [`${module}lora_B.weight`]: [out, rank],
})

const tied = path.join(dir, 'tied')
cpSync(base, tied, { recursive: true })
const tiedConfig = { ...JSON.parse(readFileSync(path.join(base, 'config.json'), 'utf8')), tie_word_embeddings: true }
writeFileSync(path.join(tied, 'config.json'), JSON.stringify(tiedConfig))

const { r: rank } = JSON.parse(readFileSync(path.join(golden, 'adapter_config.json'), 'utf8'))
const gguf: Consumer[] = ['llama.cpp', 'ollama']
const all: Consumer[] = [...consumers]
const none: Consumer[] = []

/** [what, the change, who refuses it or computes something else, options, the field that is named] */
const cases: readonly [string, Changes, Consumer[], { model?: string; maxRank?: number }, string?][] = [
  ['the adapter as it is', {}, none, { model: base }],
  ['no LoRA', { config: { peft_type: 'LOHA' } }, ['vllm', ...gguf], {}, 'peft_type'],
  ['no alpha', { config: { lora_alpha: null } }, all, {}],
  ['a fraction as alpha', { config: { lora_alpha: 16.5 } }, ['ollama'], {}, 'lora_alpha'],
  ['a rank above the limit', {}, ['vllm'], { maxRank: rank - 1 }, 'rank'],
  ['another rank in the configuration', { config: { r: rank * 2 } }, ['peft', 'vllm'], {}, 'r'],
  ['fully trained modules', { config: { modules_to_save: ['lm_head'] } }, ['vllm', ...gguf], {}, 'modules_to_save'],
  ['DoRA', { config: { use_dora: true } }, ['vllm', ...gguf], {}, 'use_dora'],
  ['trained biases', { config: { bias: 'lora_only' } }, ['vllm', ...gguf], {}, 'bias'],
  ['rsLoRA', { config: { use_rslora: true } }, gguf, {}, 'use_rslora'],
  ['several alphas', { config: { alpha_pattern: { q_proj: 8 } } }, ['vllm', ...gguf], {}, 'alpha_pattern'],
  ['several ranks', { config: { rank_pattern: { q_proj: 8 } } }, ['vllm'], {}, 'rank_pattern'],
  ['repeated layers', { config: { layer_replication: [[0, 2]] } }, ['vllm', ...gguf], {}, 'layer_replication'],
  ['a transposed base', { config: { fan_in_fan_out: true } }, none, {}],
  ['PiSSA', { config: { init_lora_weights: 'pissa' } }, none, {}],
  ['half a pair', { remove: `${prefix}self_attn.q_proj.lora_B.weight` }, all, {}, 'tensors'],
  [
    'two ranks in a pair',
    { add: { [`${prefix}mlp.x.lora_A.weight`]: [4, 8], [`${prefix}mlp.x.lora_B.weight`]: [8, 2] } },
    all,
    {},
  ],
  ['a trained bias', { add: { [`${prefix}self_attn.q_proj.bias`]: [4] } }, ['vllm', ...gguf], {}, 'tensors'],
  ['untouched base weights', { add: { [`${head}base_layer.weight`]: [160, 64] } }, none, {}],
  ['a module that Llama has not', { add: pair(`${prefix}mlp.router.`, 64, 8, rank) }, ['vllm', ...gguf], {}, 'modules'],
  ['the output head', { add: pair(head, 64, 160, rank) }, ['ollama'], {}, 'modules'],
  ['the head that is the embedding', { add: pair(head, 64, 160, rank) }, gguf, { model: tied }, 'lm_head'],
  ['a model of another width', {}, all, { model: goldenPath('models', 'llama3-tied') }, 'base model'],
  ['other weights', { metadata: { 'loram.base': 'sha256:0' } }, all, { model: base }, 'base model'],
  ['a pruned model', { metadata: { 'loram.pruning': 'sha256:0' } }, all, {}, 'base model'],
]

describe.each(cases)('%s', (_, changes, refusing, options, field) => {
  const adapter = changed(changes)
  test.each(consumers)('for %s', (consumer) => {
    const { accepted, findings } = checkAdapter({ adapter, for: consumer, ...options })
    expect(accepted).toBe(!refusing.includes(consumer))
    if (!accepted && field !== undefined) expect(findings.map((finding) => finding.field)).toContain(field)
    for (const { source, found } of findings)
      expect([source, found]).toEqual([expect.stringMatching(/^https:/), expect.any(String)])
  })
})

test('every rule but those for other families and vocabularies was broken by one of these', () => {
  const found = new Set(
    cases.flatMap(([, changes, , options]) => {
      const adapter = changed(changes)
      return consumers.flatMap((consumer) =>
        checkAdapter({ adapter, for: consumer, ...options }).findings.map(({ expected }) => expected),
      )
    }),
  )
  const unbroken = adapterRules.map(({ expected }) => expected).filter((expected) => !found.has(expected))
  expect(unbroken).toEqual(['llama, where Ollama converts the folder itself', 'a vocabulary of at most 258048 tokens'])
})

test('a pickle is refused unread, with the remedy', () => {
  const adapter = changed({})
  rmSync(path.join(adapter, 'adapter_model.safetensors'))
  writeFileSync(path.join(adapter, 'adapter_model.bin'), 'pickle')
  const details = expect.objectContaining({ found: expect.stringContaining('a pickle') })
  expect(() => checkAdapter({ adapter, for: 'peft' })).toThrow(expect.objectContaining({ code: 'E_FILE', details }))
})

test('the command says why and ends with 3, or with 0', async () => {
  const adapter = changed({ config: { use_rslora: true } })
  const refused = await loram('check-adapter', adapter, '--for', 'llama.cpp')
  expect(refused.exitCode).toBe(3)
  expect(refused.stdout).toMatch(
    /does not take .+\nloads, but computes something else: use_rslora\n {2}found {5}true\n/,
  )
  const accepted = await loram('check-adapter', '--adapter', adapter, '--for', 'vllm', '--json')
  expect(accepted.exitCode).toBe(0)
  expect(lastLine(accepted.stdout)).toEqual({ adapter, for: 'vllm', accepted: true, findings: [] })
})
