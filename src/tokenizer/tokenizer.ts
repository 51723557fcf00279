import { createHash } from 'node:crypto'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { DataError, messageOf } from '../errors.ts'
import { type AddedToken, AddedTokenSplitter } from './addedTokens.ts'
import { readTokenizerFiles, type SpecialTokens, type TokenizerFiles } from './files.ts'

export interface EncodeOptions {
  /** Text that spells a special token becomes that token. Leave it off for text that users wrote. Default false. */
  specialTokens?: boolean
  /** What `text` goes on from. Tokenizers that open a text with a blank must not do so inside of one. Default `start`. */
  after?: 'start' | 'token' | 'text'
}

export interface Tokenizer {
  /** Adds neither bos nor eos. */
  encode(text: string, options?: EncodeOptions): number[]
  /** Ids without a token (a vocabulary padded to a round size) decode to nothing. `skipSpecialTokens` is true by default. */
  decode(ids: ArrayLike<number>, options?: { skipSpecialTokens?: boolean }): string
  /** Cuts template text at its special tokens: even places are text, possibly empty, odd ones spell a token. */
  splitSpecialTokens(text: string): string[]
  readonly bosId?: number
  /** What ends a text or an answer. */
  readonly eosId?: number
  /** Everything that ends a generation. */
  readonly eosIds: readonly number[]
  /** The padding token, else eos, else 0. */
  readonly padId: number
  /** One more than the highest id. */
  readonly vocabSize: number
  /** Plain text starts with bos. Chat templates write theirs themselves. */
  readonly addBos: boolean
  readonly chatTemplate?: string
  /** `bos_token`, `eos_token` and so on, as chat templates know them. */
  readonly specialTokens: SpecialTokens
  /** SHA-256 of everything that it was read from and that decides what it does. */
  readonly fingerprint: string
}

/**
 * Reads a tokenizer from a Hugging Face directory: `tokenizer.json`, and where they exist `tokenizer_config.json`,
 * `chat_template.jinja`, `special_tokens_map.json`, `generation_config.json` and `config.json`.
 *
 * @throws {DataError} `E_TOKENIZER`: a file is missing or damaged, or its kind of tokenizer is not supported.
 */
export function loadTokenizer(dir: string): Tokenizer {
  const files = readTokenizerFiles(dir)
  try {
    return new JsonTokenizer(files)
  } catch (cause) {
    throw new DataError('E_TOKENIZER', `The tokenizer in ${dir} cannot be used`, {
      file: files.path,
      expected: 'a tokenizer.json that the Hugging Face tokenizers library wrote',
      found: messageOf(cause),
      remedy: 'download the file again; slow tokenizers (tokenizer.model alone) must be saved as fast ones first',
      cause,
    })
  }
}

/** Meta's Llama 3 tokenizer cuts where these are exceeded: byte-pair merging of one endless word takes seconds to minutes. */
const maxTextLength = 400_000
const maxWordLength = 25_000

const wordStart = '\u2581'

class JsonTokenizer implements Tokenizer {
  readonly #library: HuggingFaceTokenizer
  readonly #special: AddedTokenSplitter
  readonly #plain: AddedTokenSplitter
  readonly #specialIds: Set<number>
  /** What a line feed encodes to, where the tokenizer opens each text with a blank. */
  readonly #anchor: number[] | undefined
  readonly #splitsWords: boolean
  readonly bosId?: number
  readonly eosId?: number
  readonly eosIds: number[]
  readonly padId: number
  readonly vocabSize: number
  readonly addBos: boolean
  readonly chatTemplate?: string
  readonly specialTokens: SpecialTokens
  readonly fingerprint: string

  constructor(files: TokenizerFiles) {
    this.#library = new HuggingFaceTokenizer(files.tokenizer, files.config)
    const added: AddedToken[] = [...this.#library.get_added_tokens_decoder().values()]
    this.#special = new AddedTokenSplitter(added)
    this.#plain = new AddedTokenSplitter(added.filter(({ special }) => !special))
    this.#specialIds = new Set(added.filter(({ special }) => special).map(({ id }) => id))
    const vocabulary: string[] = this.#library.model!.vocab
    this.vocabSize = vocabulary.length
    // SentencePiece models come without a rule that cuts words; where no token crosses the start of a word, cutting there is exact
    this.#splitsWords = vocabulary.every((token) => !/[^\u2581]\u2581/.test(token))
    const line = this.#encodeWords('\n', 1)
    this.#anchor = this.#encodeWords('\na', 1).at(-1) === this.#encodeWords('a', 1)[0] ? undefined : line

    const idOf = (name: keyof SpecialTokens) => this.#library.token_to_id(files.specialTokens[name] ?? '')
    const bosId = idOf('bos_token') ?? files.bosId
    const eosId = idOf('eos_token') ?? files.eosIds[0]
    if (bosId !== undefined) this.bosId = bosId
    if (eosId !== undefined) this.eosId = eosId
    this.eosIds = files.eosIds.length > 0 || eosId === undefined ? files.eosIds : [eosId]
    this.padId = idOf('pad_token') ?? files.padId ?? eosId ?? 0
    this.addBos = bosId !== undefined && (files.config.add_bos_token ?? this.#library.encode('a').ids[0] === bosId)
    const named = (name: keyof SpecialTokens, id?: number) => (id === undefined ? {} : { [name]: vocabulary[id] })
    this.specialTokens = { ...named('bos_token', bosId), ...named('eos_token', eosId), ...files.specialTokens }
    if (files.chatTemplate !== undefined) this.chatTemplate = files.chatTemplate
    const { path: _, ...decisive } = files
    this.fingerprint = createHash('sha256').update(JSON.stringify(decisive)).digest('hex')
  }

  encode(text: string, { specialTokens = false, after = 'start' }: EncodeOptions = {}): number[] {
    const splitter = specialTokens ? this.#special : this.#plain
    return splitter
      .split(text)
      .flatMap((part, i) => (i % 2 === 1 ? [splitter.idOf(part)] : this.#encodeText(part, i === 0 ? after : 'token')))
  }

  decode(ids: ArrayLike<number>, { skipSpecialTokens = true } = {}): string {
    const known = Array.from(ids).filter(
      (id) => this.#library.id_to_token(id) !== undefined && !(skipSpecialTokens && this.#specialIds.has(id)),
    )
    return known.length === 0 ? '' : this.#library.decode(known)
  }

  splitSpecialTokens(text: string): string[] {
    return this.#special.split(text)
  }

  #encodeText(text: string, after: 'start' | 'token' | 'text'): number[] {
    const ids: number[] = []
    for (let start = 0; start < text.length; ) {
      const end = cutBefore(text, start + maxTextLength)
      const context = start === 0 ? after : 'text'
      for (const id of this.#encodeChunk(text.slice(start, end), context)) ids.push(id)
      start = end
    }
    return ids
  }

  #encodeChunk(text: string, after: 'start' | 'token' | 'text'): number[] {
    if (after !== 'text' || this.#anchor === undefined) return this.#encodeWords(text, after === 'start' ? 0 : 1)
    // the blank that opens a text lands before the line feed, which no token of these vocabularies joins with text
    return this.#encodeWords(`\n${text}`, 1).slice(this.#anchor.length)
  }

  #encodeWords(text: string, sectionIndex: number): number[] {
    const { normalizer, pre_tokenizer: preTokenizer, model } = this.#library
    const normalized: string = normalizer === null ? text : normalizer(text)
    const words: string[] =
      preTokenizer === null ? [normalized] : preTokenizer(normalized, { section_index: sectionIndex })
    const tokens: string[] = model!(words.flatMap((word) => this.#shortWords(word)))
    return tokens.map((token) => {
      const id = model!.tokens_to_ids.get(token) ?? model!.unk_token_id
      if (id !== undefined) return id
      throw new DataError('E_TOKENIZER', `The token ${JSON.stringify(token)} is not in the vocabulary`, {
        remedy: 'use the tokenizer.json that belongs to the model',
      })
    })
  }

  #shortWords(word: string): string[] {
    const words = this.#splitsWords && word.includes(wordStart) ? word.split(/(?<=[^\u2581])(?=\u2581)/) : [word]
    return words.flatMap((piece) =>
      piece.length <= maxWordLength ? [piece] : (piece.match(new RegExp(`.{1,${maxWordLength}}`, 'gsu')) ?? []),
    )
  }
}

/** The last place up to `end` where every tokenizer ends a word, before a single blank; without one, `end`. */
function cutBefore(text: string, end: number): number {
  if (end >= text.length) return text.length
  for (let i = end; i > end - maxTextLength / 2; i--) {
    if (/\S \S/.test(text.slice(i - 1, i + 2))) return i
  }
  return /[\uDC00-\uDFFF]/.test(text[end]!) ? end - 1 : end
}
