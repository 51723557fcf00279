import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { DataError, messageOf } from '../errors.ts'
import { isGguf } from '../formats/gguf/file.ts'
import { ggufTokenizerFiles } from '../formats/gguf/tokenizer.ts'

export type SpecialTokens = Partial<Record<'bos_token' | 'eos_token' | 'pad_token' | 'unk_token', string>>

export type TokenizerFiles = ReturnType<typeof readTokenizerFiles>

type Json = Record<string, unknown>

/** What a model's directory, or its GGUF file, says about its tokenizer, before any of it is used. */
export function readTokenizerFiles(dir: string) {
  const inGguf = isGguf(dir) ? ggufTokenizerFiles(dir) : undefined
  const read = (name: string) => (inGguf ? inGguf[name] : readJson(path.join(dir, name)))
  const file = inGguf ? dir : path.join(dir, 'tokenizer.json')
  const tokenizer = read('tokenizer.json')
  if (tokenizer === undefined) {
    throw new DataError('E_TOKENIZER', `${dir} has no tokenizer.json`, {
      file,
      remedy: 'copy tokenizer.json and tokenizer_config.json from the model it was made from',
    })
  }
  const config = read('tokenizer_config.json') ?? {}
  const map = read('special_tokens_map.json') ?? {}
  const modelConfig = read('config.json') ?? {}
  const generation = read('generation_config.json') ?? {}

  const specialTokens: SpecialTokens = {}
  for (const name of ['bos_token', 'eos_token', 'pad_token', 'unk_token'] as const) {
    const text = contentOf(config[name]) ?? contentOf(map[name])
    if (text !== undefined) specialTokens[name] = text
  }
  const idsOf = (key: string) =>
    [generation[key] ?? modelConfig[key]].flat().filter((id) => Number.isInteger(id)) as number[]
  return {
    path: file,
    tokenizer,
    // tidying blanks before punctuation, which some configurations ask for, gives back another text than was encoded
    config: { ...config, clean_up_tokenization_spaces: false } as Json & { add_bos_token?: boolean },
    specialTokens,
    chatTemplate: chatTemplateOf(dir, config),
    bosId: idsOf('bos_token_id')[0],
    eosIds: idsOf('eos_token_id'),
    padId: idsOf('pad_token_id')[0],
  }
}

function readJson(file: string): Json | undefined {
  if (!existsSync(file)) return undefined
  try {
    const value: unknown = JSON.parse(readFileSync(file, 'utf8'))
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json
    throw new Error('not an object')
  } catch (cause) {
    throw new DataError('E_TOKENIZER', `${path.basename(file)} cannot be read`, {
      file,
      expected: 'a JSON object',
      found: messageOf(cause),
      remedy: 'download the file again',
      cause,
    })
  }
}

/** A special token is a string, or an object that has one. */
function contentOf(token: unknown): string | undefined {
  if (typeof token === 'string') return token
  return typeof token === 'object' && token !== null && 'content' in token ? String(token.content) : undefined
}

/** A template is a file of its own in newer exports, else a string or a list of named ones in the configuration. */
function chatTemplateOf(dir: string, config: Json): string | undefined {
  const file = path.join(dir, 'chat_template.jinja')
  if (existsSync(file)) return readFileSync(file, 'utf8')
  const template: unknown = config.chat_template
  if (Array.isArray(template)) return template.find(({ name }) => name === 'default')?.template
  return typeof template === 'string' ? template : undefined
}
