import { fingerprint } from '../formats/huggingFace.ts'
import { openAdapterFiles } from '../formats/peft.ts'
import { expectedTensors } from '../model/config.ts'
import { openModelFolder } from '../model/open.ts'
import { type AdapterFacts, adapterRules, type Consumer, type Rule } from './adapterRules.ts'

/** What a program does not do with an adapter, or does otherwise. */
export interface Finding {
  /** `wrong`: it loads, and computes something else. `note`: it may depend on version or model. */
  verdict: Rule['verdict']
  field: string
  found: string
  expected: string
  remedy: string
  /** Where the program says so. */
  source: string
}

export interface AdapterCheck {
  adapter: string
  for: Consumer
  /** Nothing is refused, and nothing wrong. */
  accepted: boolean
  findings: Finding[]
}

interface Options {
  adapter: string
  for: Consumer
  model?: string | undefined
  maxRank: number
}

export function checkAdapterFolder({ adapter, for: consumer, model, maxRank }: Options): AdapterCheck {
  const facts: AdapterFacts = {
    ...readFacts(adapter),
    base: model === undefined ? undefined : readBase(model),
    maxRank,
  }
  const findings = adapterRules.flatMap(({ find, source, ...rule }) => {
    const reason = source[consumer]
    const found = reason === undefined ? undefined : find(facts)
    return found === undefined ? [] : [{ ...rule, found, source: reason! }]
  })
  return { adapter, for: consumer, accepted: findings.every(({ verdict }) => verdict === 'note'), findings }
}

function readFacts(dir: string): Pick<AdapterFacts, 'config' | 'metadata' | 'modules' | 'others'> {
  const { config, weights } = openAdapterFiles(dir)
  weights.close()
  const modules = new Map<string, { a?: readonly number[]; b?: readonly number[] }>()
  const others = new Map<string, unknown>()
  for (const [name, tensor] of weights.tensors) {
    const [, module, half] = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name) ?? []
    if (module === undefined) others.set(name, tensor)
    else modules.set(module, { ...modules.get(module), [half === 'A' ? 'a' : 'b']: tensor.shape })
  }
  return { config, metadata: weights.metadata, modules, others }
}

function readBase(model: string): AdapterFacts['base'] {
  const { checkpoint, config } = openModelFolder(model)
  // a head that is the embedding is a module nevertheless
  const shapes = expectedTensors(config).set('lm_head.weight', [config.vocabSize, config.hiddenSize])
  const base = { config, shapes, fingerprint: fingerprint(checkpoint) }
  checkpoint.close()
  return base
}
