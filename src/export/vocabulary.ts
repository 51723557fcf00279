import { DataError } from '../errors.ts'
import { nameOfPreTokenizer, preTokenizers } from '../formats/gguf/preTokenizers.ts'
import { type Merge, opensWithBlank, scoresOf } from '../formats/gguf/sentencePiece.ts'
import { tokenKinds } from '../formats/gguf/tokenizer.ts'
import type { GgufEntryValue } from '../formats/gguf/write.ts'
import type { AddedToken } from '../tokenizer/addedTokens.ts'
import { readTokenizerFiles } from '../tokenizer/files.ts'
import { loadTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts'

interface BpeJson {
  normalizer: unknown
  pre_tokenizer: unknown
  added_tokens?: AddedToken[]
  model: {
    type?: string
    vocab: Record<string, number>
    merges: (string | Merge)[]
    byte_fallback?: boolean
    unk_token?: string | null | undefined
  }
}

type Entries = [string, GgufEntryValue][]
type Refuse = (field: string, expected: string, found: string) => DataError

/**
 * A model's tokenizer as GGUF metadata, with as many tokens as its embedding has rows.
 * @throws {DataError} `E_TOKENIZER`: it is neither byte-level BPE that llama.cpp has a name for, nor SentencePiece's
 */
export function vocabularyOf(model: string, vocabSize: number): Map<string, GgufEntryValue> {
  const { tokenizer, specialTokens, path: file } = readTokenizerFiles(model)
  const json = tokenizer as unknown as BpeJson
  json.model.unk_token ??= specialTokens.unk_token
  const { type, byte_fallback: hasBytes } = json.model
  const refuse: Refuse = (field, expected, found) =>
    new DataError('E_TOKENIZER', 'the tokenizer cannot be written to a GGUF file', {
      file,
      field,
      expected,
      found: found.slice(0, 80),
      remedy: "convert the model with llama.cpp's convert_hf_to_gguf.py",
    })
  if (type !== 'BPE') throw refuse('model', "BPE, byte-level or SentencePiece's", String(type))
  const { tokens, kinds } = listTokens(json, vocabSize)
  const peculiar = hasBytes ? sentencePiece(json, tokens, refuse) : byteLevel(json, refuse)
  if (tokens.length > vocabSize)
    throw refuse('vocab', `at most ${vocabSize} tokens, as the embedding has`, `${tokens.length}`)
  return new Map<string, GgufEntryValue>([
    ...peculiar,
    ['tokenizer.ggml.tokens', tokens],
    ['tokenizer.ggml.token_type', { i32s: kinds }],
    ...specialEntries(loadTokenizer(model)),
  ])
}

function byteLevel({ pre_tokenizer, model }: BpeJson, refuse: Refuse): Entries {
  const pre = nameOfPreTokenizer(pre_tokenizer)
  if (pre === undefined) {
    throw refuse('pre_tokenizer', `that of ${Object.keys(preTokenizers).join(', ')}`, JSON.stringify(pre_tokenizer))
  }
  return [
    ['tokenizer.ggml.model', 'gpt2'],
    ['tokenizer.ggml.pre', pre],
    ['tokenizer.ggml.merges', model.merges.map((pair) => pairOf(pair).join(' '))],
  ]
}

const pairOf = (pair: string | Merge): Merge =>
  typeof pair === 'string' ? (pair.split(' ') as [string, string]) : pair

function sentencePiece(json: BpeJson, tokens: readonly string[], refuse: Refuse): Entries {
  const { normalizer, pre_tokenizer, model, added_tokens: added = [] } = json
  const opens = opensWithBlank({ normalizer, pre_tokenizer })
  if (opens === undefined) {
    throw refuse('normalizer', "that of Llama 2's tokenizer", JSON.stringify({ normalizer, pre_tokenizer }))
  }
  const special = new Set(added.map(({ content }) => content))
  const ordinary = new Set(Object.keys(model.vocab).filter((token) => !special.has(token)))
  const merges = model.merges.map(pairOf).filter((pair) => !special.has(pair.join('')))
  const scores = scoresOf(ordinary, merges)
  if (scores === undefined) {
    throw refuse('merges', "those of a SentencePiece model, in the order of its tokens' scores", 'others')
  }
  const unknown = model.vocab[model.unk_token ?? '']
  return [
    ['tokenizer.ggml.model', 'llama'],
    ['tokenizer.ggml.pre', 'default'],
    ['tokenizer.ggml.scores', { f32s: tokens.map((token) => scores.get(token) ?? 0) }],
    ['tokenizer.ggml.add_space_prefix', opens],
    ...(unknown === undefined ? [] : ([['tokenizer.ggml.unknown_token_id', { u32: unknown }]] as Entries)),
  ]
}

/** All tokens by id; ids without one, which pad embeddings to a round size, get the name that llama.cpp gives them. */
function listTokens({ model, added_tokens: added = [] }: BpeJson, vocabSize: number) {
  const byId = new Map(Object.entries(model.vocab).map(([token, id]) => [id, token]))
  const addedById = new Map(added.map((token) => [token.id, token]))
  const { byte_fallback: hasBytes } = model
  let highest = vocabSize - 1
  for (const id of [...byId.keys(), ...addedById.keys()]) highest = Math.max(highest, id)
  const kindOf = (id: number): number => {
    const token = addedById.get(id)
    if (token) {
      if (!token.special) return tokenKinds.userDefined
      // byte-level vocabularies know no unknown text; what they name so is often the end
      return hasBytes && token.content === model.unk_token ? tokenKinds.unknown : tokenKinds.control
    }
    if (!byId.has(id)) return tokenKinds.unused
    return hasBytes && /^<0x[0-9A-F]{2}>$/.test(byId.get(id)!) ? tokenKinds.byte : tokenKinds.normal
  }
  const ids = Array.from({ length: highest + 1 }, (_, id) => id)
  return {
    tokens: ids.map((id) => addedById.get(id)?.content ?? byId.get(id) ?? `[PAD${id}]`),
    kinds: ids.map(kindOf),
  }
}

function specialEntries(tokenizer: Tokenizer): Entries {
  const { bosId, eosId, eosIds, padId, addBos, chatTemplate, specialTokens } = tokenizer
  const id = (name: string, value: number | undefined): Entries =>
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
    ...(chatTemplate === undefined ? [] : ([['tokenizer.chat_template', chatTemplate]] as Entries)),
  ]
}
