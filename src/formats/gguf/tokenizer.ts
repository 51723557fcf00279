import { DataError } from '../../errors.ts'
import type { JsonObject } from '../json.ts'
import { tokenIdsOf } from './config.ts'
import { type GgufMetadata, openGguf } from './file.ts'
import { preTokenizers } from './preTokenizers.ts'
import { type Merge, mergesOf, sentencePieceParts } from './sentencePiece.ts'

/** Kinds of tokens, as `tokenizer.ggml.token_type` has them. */
export const tokenKinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

/**
 * The tokenizer of a GGUF file, as the files beside a Hugging Face model: byte-level BPE, or SentencePiece's with bytes to
 * fall back to.
 * @throws {DataError} `E_TOKENIZER`: its kind, or its way to cut words, is not supported
 */
export function ggufTokenizerFiles(file: string): Record<string, JsonObject> {
  const gguf = openGguf(file)
  gguf.close()
  const { metadata } = gguf
  const refuse: Refuse = (field, expected) => {
    const found = metadata.get(field)
    return new DataError('E_TOKENIZER', `the tokenizer in ${file} is not supported`, {
      file,
      field,
      expected,
      found: found === undefined ? 'nothing' : String(found).slice(0, 80),
      remedy: 'use the original folder of the model, with its tokenizer.json',
    })
  }
  const model = metadata.get('tokenizer.ggml.model')
  if (model !== 'gpt2' && model !== 'llama') {
    throw refuse('tokenizer.ggml.model', "gpt2: byte-level BPE, or llama: SentencePiece's")
  }
  const tokens = listOf<string>(metadata, 'tokenizer.ggml.tokens', 'string')
  if (tokens === undefined) throw refuse('tokenizer.ggml.tokens', 'a list of strings')
  const kinds = listOf<number>(metadata, 'tokenizer.ggml.token_type', 'number') ?? []
  const { addBos, ...json } = (model === 'gpt2' ? byteLevel : sentencePiece)(metadata, tokens, kinds, refuse)
  return {
    'tokenizer.json': {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens(tokens, kinds),
      post_processor: null,
      ...json,
    },
    'tokenizer_config.json': {
      tokenizer_class: 'PreTrainedTokenizerFast',
      clean_up_tokenization_spaces: false,
      add_bos_token: metadata.get('tokenizer.ggml.add_bos_token') ?? addBos,
      ...tokenNames(metadata, tokens),
      ...(metadata.has('tokenizer.chat_template') && { chat_template: metadata.get('tokenizer.chat_template') }),
    },
    'generation_config.json': tokenIdsOf(metadata),
  }
}

type Refuse = (field: string, expected: string) => DataError
/** What is peculiar to a kind of tokenizer: the parts of tokenizer.json, and whether texts begin with bos by default. */
type Kind = (
  metadata: GgufMetadata,
  tokens: readonly string[],
  kinds: readonly number[],
  refuse: Refuse,
) => JsonObject & { addBos: boolean }

const byteLevel: Kind = (metadata, tokens, _kinds, refuse) => {
  const pre = metadata.get('tokenizer.ggml.pre') ?? 'gpt-2'
  const known = typeof pre === 'string' && Object.hasOwn(preTokenizers, pre) ? preTokenizers[pre] : undefined
  if (known === undefined) throw refuse('tokenizer.ggml.pre', Object.keys(preTokenizers).join(', '))
  const merges = listOf<string>(metadata, 'tokenizer.ggml.merges', 'string')
  if (merges === undefined) throw refuse('tokenizer.ggml.merges', 'a list of strings')
  return {
    addBos: known.addBos,
    normalizer: known.normalizer,
    pre_tokenizer: known.json,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: bpe(tokens, merges, { ignore_merges: known.ignoreMerges }),
  }
}

const sentencePiece: Kind = (metadata, tokens, kinds, refuse) => {
  const scores = listOf<number>(metadata, 'tokenizer.ggml.scores', 'number')
  if (scores?.length !== tokens.length) throw refuse('tokenizer.ggml.scores', `${tokens.length} numbers`)
  const unknown = Number(metadata.get('tokenizer.ggml.unknown_token_id') ?? 0)
  // text never becomes a special token, whatever it spells
  const ordinary = tokens.flatMap((token, id): [string, number][] =>
    (kinds[id] ?? tokenKinds.normal) === tokenKinds.normal ? [[token, scores[id]!]] : [],
  )
  return {
    addBos: true,
    ...sentencePieceParts(metadata.get('tokenizer.ggml.add_space_prefix') !== false),
    model: bpe(tokens, mergesOf(new Map(ordinary)), {
      unk_token: tokens[unknown] ?? null,
      fuse_unk: true,
      byte_fallback: true,
    }),
  }
}

function bpe(tokens: readonly string[], merges: readonly (string | Merge)[], more: JsonObject): JsonObject {
  return {
    type: 'BPE',
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    ...more,
    vocab: Object.fromEntries(tokens.map((content, id) => [content, id])),
    merges,
  }
}

function listOf<T extends string | number>(metadata: GgufMetadata, key: string, type: 'string' | 'number') {
  const values = metadata.get(key)
  return Array.isArray(values) && values.every((value) => typeof value === type) ? (values as T[]) : undefined
}

function tokenNames(metadata: GgufMetadata, tokens: readonly string[]) {
  const names = { bos_token: 'bos', eos_token: 'eos', pad_token: 'padding', unk_token: 'unknown' }
  return Object.fromEntries(
    Object.entries(names).flatMap(([key, name]) => {
      const token = tokens[Number(metadata.get(`tokenizer.ggml.${name}_token_id`) ?? -1)]
      return token === undefined ? [] : [[key, token]]
    }),
  )
}

function addedTokens(tokens: readonly string[], kinds: readonly number[]): JsonObject[] {
  return tokens.flatMap((content, id) => {
    const special = kinds[id] === tokenKinds.control || kinds[id] === tokenKinds.unknown
    if (!special && kinds[id] !== tokenKinds.userDefined) return []
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }]
  })
}
