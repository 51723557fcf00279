import type { JsonObject } from '../formats/json.ts'
import type { LlamaConfig } from '../model/config.ts'

/** Programs that load adapters. */
export const consumers = ['peft', 'vllm', 'llama.cpp', 'ollama'] as const
export type Consumer = (typeof consumers)[number]

/** What the rules look at. */
export interface AdapterFacts {
  /** adapter_config.json. */
  config: JsonObject
  /** Of adapter_model.safetensors. */
  metadata: Readonly<Record<string, string>>
  /** Shapes of lora_A and lora_B by module path. */
  modules: ReadonlyMap<string, { a?: readonly number[]; b?: readonly number[] }>
  /** All other tensors by name. */
  others: ReadonlyMap<string, unknown>
  /** The base model, where it is known. */
  base?: { config: LlamaConfig; shapes: ReadonlyMap<string, readonly number[]>; fingerprint: string } | undefined
  /** vLLM's `--max-lora-rank`. */
  maxRank: number
}

/** A reason for which a program does not use an adapter as it was trained. */
export interface Rule {
  /** `wrong`: it loads, and computes something else. `note`: it may depend on version or model. */
  verdict: 'refused' | 'wrong' | 'note'
  field: string
  expected: string
  remedy: string
  /** What breaks the rule, where something does. */
  find(facts: AdapterFacts): string | undefined
  /** The programs that it is a rule of, and where they say so. */
  source: Partial<Record<Consumer, string>>
}

const peft = 'https://github.com/huggingface/peft/blob/main/src/peft'
const vllm = 'https://github.com/vllm-project/vllm/blob/main/vllm'
const llama = 'https://github.com/ggml-org/llama.cpp/blob/master'
const ollama = 'https://github.com/ollama/ollama/blob/main/convert'

const ofPeft = { peft: `${peft}/utils/save_and_load.py` }
const ofVllm = { vllm: `${vllm}/lora/peft_helper.py` }
const ofVllmTensors = { vllm: `${vllm}/lora/lora_model.py` }
const ofGguf = { 'llama.cpp': `${llama}/convert_lora_to_gguf.py`, ollama: `${ollama}/convert_llama_adapter.go` }
const ofGgufLoader = { 'llama.cpp': `${llama}/src/llama-adapter.cpp`, ollama: `${llama}/src/llama-adapter.cpp` }
const ofAll = { ...ofPeft, ...ofVllmTensors, ...ofGgufLoader }

const exportRemedy = '`loram export --content adapter` writes a GGUF adapter with the scale that it was trained with'
const mergeRemedy = 'merge it into the base model with PEFT, and use that'
const retrainRemedy = 'train without it'

const linears = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
const lastName = (module: string) => module.slice(module.lastIndexOf('.') + 1)

/** The value of a key of adapter_config.json that is not empty. */
const set = (key: string) => (facts: AdapterFacts) => {
  const value = facts.config[key]
  const isEmpty = typeof value === 'object' && Object.keys(value ?? {}).length === 0
  return value === undefined || value === false || value === 'none' || isEmpty ? undefined : JSON.stringify(value)
}
const missing =
  (...keys: string[]) =>
  ({ config }: AdapterFacts) =>
    listed(
      keys.filter((key) => config[key] == null),
      'no ',
    )
const modulesThat = (test: (module: string, facts: AdapterFacts) => boolean) => (facts: AdapterFacts) =>
  listed([...facts.modules.keys()].filter((module) => test(module, facts)))
const highestRank = ({ modules }: AdapterFacts) => Math.max(...Array.from(modules.values(), ({ a }) => a?.[0] ?? 0))

function listed(names: readonly string[], prefix = ''): string | undefined {
  if (names.length === 0) return undefined
  const more = names.length > 3 ? ` and ${names.length - 3} more` : ''
  return prefix + names.slice(0, 3).join(', ') + more
}

/** As the programs were in late 2026. */
export const adapterRules: readonly Rule[] = [
  {
    verdict: 'refused',
    field: 'peft_type',
    expected: 'LORA',
    remedy: mergeRemedy,
    find: ({ config }) => (config.peft_type === 'LORA' ? undefined : JSON.stringify(config.peft_type ?? null)),
    source: { ...ofVllm, ...ofGguf },
  },
  {
    verdict: 'refused',
    field: 'adapter_config.json',
    expected: 'r, lora_alpha and target_modules',
    remedy: 'save the adapter again with PEFT, or with `loram recover`',
    find: missing('r', 'lora_alpha', 'target_modules'),
    source: { ...ofVllm, peft: `${peft}/tuners/lora/config.py` },
  },
  {
    verdict: 'refused',
    field: 'lora_alpha',
    expected: 'a number',
    remedy: 'save the adapter again with PEFT, or with `loram recover`',
    find: missing('lora_alpha'),
    source: ofGguf,
  },
  {
    verdict: 'refused',
    field: 'lora_alpha',
    expected: 'a whole number, where Ollama converts the folder itself',
    remedy: exportRemedy,
    find: ({ config: { lora_alpha: alpha } }) =>
      typeof alpha === 'number' && !Number.isInteger(alpha) ? String(alpha) : undefined,
    source: { ollama: `${ollama}/convert.go` },
  },
  {
    verdict: 'refused',
    field: 'architecture',
    expected: 'llama, where Ollama converts the folder itself',
    remedy: exportRemedy,
    find: ({ base }) => {
      const type: string = base?.config.modelType ?? 'llama'
      return type === 'llama' || type === 'mistral' ? undefined : type
    },
    source: { ollama: `${ollama}/convert.go` },
  },
  {
    verdict: 'refused',
    field: 'rank',
    expected: 'at most --max-lora-rank',
    remedy: 'start vLLM with a larger --max-lora-rank',
    find: (facts) => (highestRank(facts) > facts.maxRank ? `${highestRank(facts)}, above ${facts.maxRank}` : undefined),
    source: { vllm: `${vllm}/config/lora.py` },
  },
  {
    verdict: 'refused',
    field: 'r',
    expected: 'the rank of the tensors',
    remedy: 'restore the adapter_config.json that was saved with them',
    find: (facts) => {
      const { r, rank_pattern } = facts.config
      const uneven = Object.keys(rank_pattern ?? {}).length > 0
      return uneven || r === undefined || r === highestRank(facts)
        ? undefined
        : `${r}, tensors have ${highestRank(facts)}`
    },
    source: { ...ofPeft, ...ofVllm },
  },
  {
    verdict: 'refused',
    field: 'modules_to_save',
    expected: 'null: no fully trained modules',
    remedy: mergeRemedy,
    find: set('modules_to_save'),
    source: { ...ofVllm, ...ofGguf },
  },
  {
    verdict: 'refused',
    field: 'use_dora',
    expected: 'false',
    remedy: mergeRemedy,
    find: set('use_dora'),
    source: { ...ofVllm, ...ofGguf },
  },
  {
    verdict: 'refused',
    field: 'bias',
    expected: 'none',
    remedy: retrainRemedy,
    find: set('bias'),
    source: { vllm: `${vllm}/lora/utils.py`, ...ofGguf },
  },
  {
    verdict: 'wrong',
    field: 'use_rslora',
    expected: 'false: the scale is taken to be alpha / rank',
    remedy: exportRemedy,
    find: set('use_rslora'),
    source: ofGguf,
  },
  {
    verdict: 'wrong',
    field: 'alpha_pattern',
    expected: 'one alpha for all modules',
    remedy: 'read and write it with loram, which makes one alpha of them',
    find: set('alpha_pattern'),
    source: { ...ofVllm, ...ofGguf },
  },
  {
    verdict: 'wrong',
    field: 'rank_pattern',
    expected: 'one rank for all modules: the scale is taken to be alpha / r',
    remedy: 'read and write it with loram, which makes one rank of them',
    find: set('rank_pattern'),
    source: ofVllm,
  },
  {
    verdict: 'wrong',
    field: 'layer_replication',
    expected: 'null',
    remedy: mergeRemedy,
    find: set('layer_replication'),
    source: { ...ofVllm, ...ofGguf },
  },
  {
    verdict: 'note',
    field: 'fan_in_fan_out',
    expected: 'false: the modules are no Conv1D; it has no effect',
    remedy: 'none is needed',
    find: set('fan_in_fan_out'),
    source: { peft: `${peft}/tuners/lora/layer.py`, ...ofVllm, ...ofGguf },
  },
  {
    verdict: 'note',
    field: 'init_lora_weights',
    expected: 'an initialisation that leaves the base as it is',
    remedy: 'use it with the changed base that was saved beside it, and no other',
    find: ({ config: { init_lora_weights: init } }) =>
      typeof init === 'string' && !['gaussian', 'eva', 'orthogonal'].includes(init) ? init : undefined,
    source: { peft: `${peft}/tuners/lora/config.py`, ...ofVllm, ...ofGguf },
  },
  {
    verdict: 'refused',
    field: 'tensors',
    expected: 'lora_A and lora_B of every module',
    remedy: 'save the adapter again after training',
    find: modulesThat((module, { modules }) => !modules.get(module)!.a || !modules.get(module)!.b),
    source: { ...ofVllmTensors, ...ofGgufLoader },
  },
  {
    verdict: 'wrong',
    field: 'tensors',
    expected: 'lora_A and lora_B of every module: the half that is missing keeps its initial value',
    remedy: 'save the adapter again after training',
    find: modulesThat((module, { modules }) => !modules.get(module)!.a || !modules.get(module)!.b),
    source: ofPeft,
  },
  {
    verdict: 'refused',
    field: 'tensors',
    expected: 'the rank of lora_A in lora_B',
    remedy: 'save the adapter again after training',
    find: modulesThat((module, { modules }) => {
      const { a, b } = modules.get(module)!
      return a !== undefined && b !== undefined && a[0] !== b[1]
    }),
    source: ofAll,
  },
  {
    verdict: 'refused',
    field: 'tensors',
    expected: 'only lora_A.weight and lora_B.weight of linear modules',
    remedy: mergeRemedy,
    find: ({ others }) => listed([...others.keys()].filter((name) => !name.includes('.base_layer.'))),
    source: { vllm: `${vllm}/lora/utils.py`, ...ofGguf },
  },
  {
    verdict: 'note',
    field: 'tensors',
    expected: 'no base weights: older versions refuse them',
    remedy: 'read and write it with loram, which leaves them out',
    find: ({ others }) => listed([...others.keys()].filter((name) => name.includes('.base_layer.'))),
    source: ofVllmTensors,
  },
  {
    verdict: 'refused',
    field: 'modules',
    expected: `${linears.join(', ')}, lm_head or embed_tokens`,
    remedy: retrainRemedy,
    find: modulesThat((module) => ![...linears, 'lm_head', 'embed_tokens'].includes(lastName(module))),
    source: { ...ofVllmTensors, 'llama.cpp': `${llama}/convert_lora_to_gguf.py` },
  },
  {
    verdict: 'refused',
    field: 'modules',
    expected: `${linears.join(', ')}, where Ollama converts the folder itself`,
    remedy: '`loram export --content adapter` writes a GGUF adapter, which may adapt lm_head too',
    find: modulesThat((module) => !linears.includes(lastName(module))),
    source: { ollama: `${ollama}/convert_llama_adapter.go` },
  },
  {
    verdict: 'refused',
    field: 'lm_head',
    expected: 'a head that is not the embedding',
    remedy: 'train without lm_head',
    find: modulesThat((module, { base }) => module === 'lm_head' && base?.config.tieWordEmbeddings === true),
    source: ofGguf,
  },
  {
    verdict: 'note',
    field: 'lm_head',
    expected: 'a head that is not the embedding; name the base model with --model to know',
    remedy: 'train without lm_head where it is',
    find: modulesThat((module, { base }) => module === 'lm_head' && base === undefined),
    source: ofGguf,
  },
  {
    verdict: 'refused',
    field: 'lm_head',
    expected: 'a vocabulary of at most 258048 tokens',
    remedy: 'train without lm_head',
    find: modulesThat((module, { base }) => module === 'lm_head' && (base?.config.vocabSize ?? 0) > 258048),
    source: { vllm: `${vllm}/lora/layers/logits_processor.py` },
  },
  {
    verdict: 'refused',
    field: 'base model',
    expected: 'an adapter for the original model: none of these programs loads a pruned one',
    remedy: 'bring it to the original dimensions with `loram recover`',
    find: ({ metadata }) => metadata['loram.pruning'],
    source: ofAll,
  },
  {
    verdict: 'refused',
    field: 'base model',
    expected: 'its modules, with the same sizes',
    remedy:
      'name the model that the adapter was trained for, or bring the adapter to its dimensions with `loram recover`',
    find: modulesThat((module, { modules, base }) => {
      if (base === undefined) return false
      const { a, b } = modules.get(module)!
      const [out, inputs] = base.shapes.get(`${module}.weight`) ?? []
      return (a !== undefined && a[1] !== inputs) || (b !== undefined && b[0] !== out)
    }),
    source: ofAll,
  },
  {
    verdict: 'wrong',
    field: 'base model',
    expected: 'the weights that the adapter was trained for',
    remedy: 'name the model that the adapter was trained for',
    find: ({ metadata, base }) => {
      const trainedFor = metadata['loram.base']
      return base === undefined || trainedFor === undefined || trainedFor === base.fingerprint
        ? undefined
        : base.fingerprint
    },
    source: ofAll,
  },
]
