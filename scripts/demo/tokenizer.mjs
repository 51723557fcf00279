// A tokenizer of single characters, as the tokenizer.json that the Hugging Face libraries read: byte-level BPE without merges,
// which GGUF files have a name for, too.

const special = ['<s>', '</s>']
// Ġ is byte-level BPE's name for a blank
const characters = [...'Ġ()=|:.?+0123456789abcdefghijklmnopqrstuvwxyz']
const content = (id) => ({ content: special[id], single_word: false, lstrip: false, rstrip: false, normalized: false })

export const vocabSize = special.length + characters.length
export const bosId = 0
export const eosId = 1

export const tokenizerJson = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: special.map((_, id) => ({ id, ...content(id), special: true })),
  normalizer: null,
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [
      { SpecialToken: { id: '<s>', type_id: 0 } },
      { Sequence: { id: 'A', type_id: 0 } },
      { Sequence: { id: 'B', type_id: 1 } },
    ],
    special_tokens: { '<s>': { id: '<s>', ids: [bosId], tokens: ['<s>'] } },
  },
  decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  model: {
    type: 'BPE',
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    vocab: Object.fromEntries([...special, ...characters].map((token, id) => [token, id])),
    merges: [],
  },
}

export const tokenizerConfig = {
  tokenizer_class: 'PreTrainedTokenizerFast',
  bos_token: '<s>',
  eos_token: '</s>',
  add_bos_token: true,
  clean_up_tokenization_spaces: false,
  model_max_length: 512,
}
