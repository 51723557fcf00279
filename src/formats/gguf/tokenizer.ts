import { DataError } from '../../errors.ts'
import type { JsonObject } from '../json.ts'
import { tokenIdsOf } from './config.ts'
import type { GgufValue } from './cursor.ts'
import { type GgufMetadata, openGguf } from './file.ts'
import { preTokenizers } from './preTokenizers.ts'

/** Kinds of tokens, as `tokenizer.ggml.token_type` has them. */
export const tokenKinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

/**
 * The tokenizer of a GGUF file, as the files beside a Hugging Face model.
 * @throws {DataError} `E_TOKENIZER`: its kind, or its way to cut words, is not supported
 */
export function ggufTokenizerFiles(file: string): Record<string, JsonObject> {
  const gguf = openGguf(file)
  gguf.close()
  const { metadata } = gguf
  const refuse = (field: string, expected: string, found: GgufValue | undefined) =>
    new DataError('E_TOKENIZER', `the tokenizer in ${file} is not supported`, {
      file,
      field,
      expected,
      found: found === undefined ? 'nothing' : String(found).slice(0, 80),
      remedy: 'use the original folder of the model, with its tokenizer.json',
    })
  const model = metadata.get('tokenizer.ggml.model')
  if (model !== 'gpt2') throw refuse('tokenizer.ggml.model', 'gpt2: byte-level BPE', model)
  const pre = metadata.get('tokenizer.ggml.pre') ?? 'gpt-2'
  const known = typeof pre === 'string' && Object.hasOwn(preTokenizers, pre) ? preTokenizers[pre] : undefined
  if (known === undefined) throw refuse('tokenizer.ggml.pre', Object.keys(preTokenizers).join(', '), pre)
  const tokens = stringsOf(metadata, 'tokenizer.ggml.tokens')
  if (tokens === undefined) throw refuse('tokenizer.ggml.tokens', 'a list of strings', undefined)
  const merges = stringsOf(metadata, 'tokenizer.ggml.merges')
  if (merges === undefined) throw refuse('tokenizer.ggml.merges', 'a list of strings', undefined)
  const kinds = (metadata.get('tokenizer.ggml.token_type') ?? []) as GgufValue[]

  const ids = tokenIdsOf(metadata)
  return {
    'tokenizer.json': tokenizerJson(tokens, merges, kinds, known),
    'tokenizer_config.json': {
      tokenizer_class: 'PreTrainedTokenizerFast',
      clean_up_tokenization_spaces: false,
      add_bos_token: metadata.get('tokenizer.ggml.add_bos_token') ?? known.addBos,
      ...tokenNames(metadata, tokens),
      ...(metadata.has('tokenizer.chat_template') && { chat_template: metadata.get('tokenizer.chat_template') }),
    },
    'generation_config.json': ids,
  }
}

function stringsOf(metadata: GgufMetadata, key: string): string[] | undefined {
  const values = metadata.get(key)
  return Array.isArray(values) && values.every((value) => typeof value === 'string') ? values : undefined
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

function tokenizerJson(
  tokens: readonly string[],
  merges: readonly string[],
  kinds: readonly GgufValue[],
  { json, normalizer, ignoreMerges }: (typeof preTokenizers)[string],
): JsonObject {
  const added = tokens.flatMap((content, id) => {
    const special = kinds[id] === tokenKinds.control
    if (!special && kinds[id] !== tokenKinds.userDefined) return []
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }]
  })
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer,
    pre_tokenizer: json,
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: ignoreMerges,
      vocab: Object.fromEntries(tokens.map((content, id) => [content, id])),
      merges,
    },
  }
}
