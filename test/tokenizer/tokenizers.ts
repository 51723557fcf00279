import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadTokenizer, type Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import { scratchFolder } from '../formats/scratch.ts'

export const shared = fileURLToPath(new URL('../../../shared', import.meta.url))

const root = scratchFolder('loram test ü-')

/** A new directory that is gone when the tests end. */
export function temporaryDir(): string {
  return mkdtempSync(path.join(root, 'dir-'))
}

export function writeTokenizer(files: Record<string, unknown>): string {
  const dir = temporaryDir()
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(path.join(dir, name), typeof content === 'string' ? content : JSON.stringify(content))
  }
  return dir
}

/** GPT-2's names for bytes: printable ones stand for themselves, the others follow from U+0100. */
const byteNames = Array.from({ length: 256 }, (_, byte) => byte)
const isPrintable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173)
const hidden = byteNames.filter((byte) => !isPrintable(byte))
const nameOf = (byte: number) => String.fromCharCode(isPrintable(byte) ? byte : 256 + hidden.indexOf(byte))

const merges = ['H e', 'l l', 'He ll', 'Hell o', 'Ġ t', 'h e', 'Ġt he', 'Ċ Ċ', 'a n']
const special = [
  '<s>',
  '</s>',
  '<|im_start|>',
  '<|im_end|>',
  '<|begin_of_text|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
]

const addedTokens = (from: number) =>
  special.map((content, i) => ({ id: from + i, content, special: true, normalized: false }))

const llama3Words =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

export const byteLevelJson = {
  added_tokens: addedTokens(256 + merges.length),
  normalizer: null,
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: llama3Words }, behavior: 'Isolated', invert: false },
      { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    ],
  },
  post_processor: null,
  decoder: { type: 'ByteLevel' },
  model: {
    type: 'BPE',
    vocab: Object.fromEntries(
      [...byteNames.map(nameOf), ...merges.map((pair) => pair.replace(' ', ''))].map((token, id) => [token, id]),
    ),
    merges,
  },
}

/** Byte-level BPE as Llama 3 has it, with the special tokens of several families. */
export function byteLevelTokenizer(config: Record<string, unknown> = {}): Tokenizer {
  return loadTokenizer(
    writeTokenizer({
      'tokenizer.json': byteLevelJson,
      'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>', add_bos_token: true, ...config },
    }),
  )
}

const pieces = ['<unk>', ...byteNames.map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)]
const letters = ['▁', ...'abcdefghijklmnopqrstuvwxyzHI[]/.?!'].concat('▁H', 'He', '▁He', 'll', '▁Hell', '▁Hello', '▁▁')
const vocab = [...pieces, ...letters]
const spMerges = ['▁ H', 'H e', '▁ He', '▁H e', 'l l', '▁He ll', '▁Hell o', '▁ ▁']

export const sentencePieceJson = {
  added_tokens: addedTokens(vocab.length),
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '▁' },
      { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    ],
  },
  pre_tokenizer: null,
  post_processor: null,
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
  model: {
    type: 'BPE',
    unk_token: '<unk>',
    fuse_unk: true,
    byte_fallback: true,
    vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
    merges: spMerges,
  },
}

/** SentencePiece BPE with byte fallback as Llama 2 has it: a blank opens each text. */
export function sentencePieceTokenizer(config: Record<string, unknown> = {}): Tokenizer {
  return loadTokenizer(
    writeTokenizer({
      'tokenizer.json': sentencePieceJson,
      'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>', add_bos_token: true, ...config },
    }),
  )
}

/** Chat templates in the families' published forms. */
export const templates = {
  llama3:
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
  chatml:
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
  llama2:
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
}

const smolFile = path.join(shared, 'models/SmolLM2-135M-Instruct.Q4_1.gguf')
export const hasSmolLM2 = existsSync(smolFile)

/** A directory with SmolLM2's own tokenizer, taken out of its GGUF file. */
export function smolLM2Dir(): string {
  const dir = temporaryDir()
  execFileSync(process.execPath, [path.join(shared, 'tools/gguf-to-hf.mjs'), smolFile, dir])
  rmSync(path.join(dir, 'model.safetensors'))
  return dir
}
