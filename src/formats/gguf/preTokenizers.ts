import type { JsonObject } from '../json.ts'

/** How texts are cut into words before byte-pair merging: what GGUF files name, and tokenizer.json spells out. */
interface PreTokenizer {
  /** `pre_tokenizer` of tokenizer.json. */
  json: JsonObject
  /** `normalizer` of tokenizer.json. */
  normalizer: JsonObject | null
  /** A word that is a token is taken whole, whatever the merges say. */
  ignoreMerges: boolean
  /** Whether texts begin with bos where the file does not say. */
  addBos: boolean
}

const byteLevel = (useRegex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
})
const sequence = (...pretokenizers: JsonObject[]) => ({ type: 'Sequence', pretokenizers })
const split = (regex: string) => ({ type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false })

/** The expression of Llama 3 and Qwen 2, which differ in how many digits go together. */
const words = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`

/** By the name in `tokenizer.ggml.pre`: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp */
export const preTokenizers: Readonly<Record<string, PreTokenizer>> = {
  'gpt-2': { json: byteLevel(true), normalizer: null, ignoreMerges: false, addBos: false },
  'llama-bpe': {
    json: sequence(split(words('\\p{N}{1,3}')), byteLevel(false)),
    normalizer: null,
    ignoreMerges: true,
    addBos: true,
  },
  qwen2: {
    json: sequence(split(words('\\p{N}')), byteLevel(false)),
    normalizer: { type: 'NFC' },
    ignoreMerges: false,
    addBos: false,
  },
  smollm: {
    json: sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)),
    normalizer: null,
    ignoreMerges: false,
    addBos: false,
  },
}

/** The name of tokenizer.json's `pre_tokenizer`, if llama.cpp has one that cuts alike. */
export function nameOfPreTokenizer(preTokenizer: unknown): string | undefined {
  const wanted = essence(preTokenizer)
  return Object.keys(preTokenizers).find((name) => essence(preTokenizers[name]!.json) === wanted)
}

/** What decides where words end: files differ in keys that have no effect here. */
function essence(preTokenizer: unknown): string {
  const steps = (preTokenizer as JsonObject | null)?.pretokenizers ?? [preTokenizer]
  return JSON.stringify(
    (steps as (JsonObject | null)[]).map((step) => ({
      type: step?.type,
      ...(step?.type === 'Split' && { pattern: step.pattern, behavior: step.behavior, invert: step.invert ?? false }),
      ...(step?.type === 'Digits' && { individual: step.individual_digits }),
      ...(step?.type === 'ByteLevel' && { prefix: step.add_prefix_space, regex: step.use_regex ?? true }),
    })),
  )
}
