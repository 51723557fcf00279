import { DataError } from '../errors.ts'
import { nameOfPreTokenizer, preTokenizers } from '../formats/gguf/preTokenizers.ts'
import { tokenKinds } from '../formats/gguf/tokenizer.ts'
import type { GgufEntryValue } from '../formats/gguf/write.ts'
import type { AddedToken } from '../tokenizer/addedTokens.ts'
import { readTokenizerFiles } from '../tokenizer/files.ts'
import { loadTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts'

interface BpeJson {
  pre_tokenizer: unknown
  added_tokens?: AddedToken[]
  model: {
    type?: string
    vocab: Record<string, number>
    merges: (string | [string, string])[]
    byte_fallback?: boolean
  }
}

/**
 * A model's tokenizer as GGUF metadata, with as many tokens as its embedding has rows.
 * @throws {DataError} `E_TOKENIZER`: it is no byte-level BPE, or llama.cpp has no name for how it cuts words
 */
export function vocabularyOf(model: string, vocabSize: number): Map<string, GgufEntryValue> {
  const { tokenizer: json, path: file } = readTokenizerFiles(model)
  const { pre_tokenizer, model: bpe, added_tokens: added = [] } = json as unknown as BpeJson
  const refuse = (field: string, expected: string, found: string) =>
    new DataError('E_TOKENIZER', 'the tokenizer cannot be written to a GGUF file', {
      file,
      field,
      expected,
      found: found.slice(0, 80),
      remedy: "convert the model with llama.cpp's convert_hf_to_gguf.py",
    })
  if (bpe.type !== 'BPE' || bpe.byte_fallback) throw refuse('model', 'byte-level BPE', String(bpe.type))
  const pre = nameOfPreTokenizer(pre_tokenizer)
  if (pre === undefined) {
    throw refuse('pre_tokenizer', `that of ${Object.keys(preTokenizers).join(', ')}`, JSON.stringify(pre_tokenizer))
  }
  const { tokens, kinds } = listTokens(bpe.vocab, added, vocabSize)
  if (tokens.length > vocabSize)
    throw refuse('vocab', `at most ${vocabSize} tokens, as the embedding has`, `${tokens.length}`)
  return new Map<string, GgufEntryValue>([
    ['tokenizer.ggml.model', 'gpt2'],
    ['tokenizer.ggml.pre', pre],
    ['tokenizer.ggml.tokens', tokens],
    ['tokenizer.ggml.token_type', { i32s: kinds }],
    ['tokenizer.ggml.merges', bpe.merges.map((pair) => (typeof pair === 'string' ? pair : pair.join(' ')))],
    ...specialEntries(loadTokenizer(model)),
  ])
}

/** All tokens by id; ids without one, which pad embeddings to a round size, get the name that llama.cpp gives them. */
function listTokens(vocab: Readonly<Record<string, number>>, added: readonly AddedToken[], vocabSize: number) {
  const byId = new Map(Object.entries(vocab).map(([token, id]) => [id, token]))
  const addedById = new Map(added.map((token) => [token.id, token]))
  let highest = vocabSize - 1
  for (const id of [...byId.keys(), ...addedById.keys()]) highest = Math.max(highest, id)
  const tokens: string[] = []
  const kinds: number[] = []
  for (let id = 0; id <= highest; id++) {
    const token = addedById.get(id)
    tokens.push(token?.content ?? byId.get(id) ?? `[PAD${id}]`)
    const named = byId.has(id) ? tokenKinds.normal : tokenKinds.unused
    kinds.push(token ? (token.special ? tokenKinds.control : tokenKinds.userDefined) : named)
  }
  return { tokens, kinds }
}

function specialEntries(tokenizer: Tokenizer): [string, GgufEntryValue][] {
  const { bosId, eosId, eosIds, padId, addBos, chatTemplate, specialTokens } = tokenizer
  const id = (name: string, value: number | undefined): [string, GgufEntryValue][] =>
    value === undefined ? [] : [[`tokenizer.ggml.${name}_token_id`, { u32: value }]]
  return [
    ...id('bos', bosId),
    ...id('eos', eosId),
    ...id(
      'eot',
      eosIds.find((end) => end !== eosId),
    ),
    ...id('padding', specialTokens.pad_token === undefined ? undefined : padId),
    ['tokenizer.ggml.add_bos_token', addBos],
    ...(chatTemplate === undefined ? [] : [['tokenizer.chat_template', chatTemplate] as [string, GgufEntryValue]]),
  ]
}
