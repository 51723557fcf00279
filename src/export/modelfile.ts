import { LoramError } from '../errors.ts'
import { type ChatMessage, renderChat } from '../tokenizer/chatTemplate.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

/** A way to write conversations that many models share. */
interface ChatFormat {
  /** What stands before, after the role and after the content of a message. */
  turn: [string, string, string]
  stop: string
}

const formats: readonly ChatFormat[] = [
  { turn: ['<|im_start|>', '\n', '<|im_end|>\n'], stop: '<|im_end|>' },
  { turn: ['<|start_header_id|>', '<|end_header_id|>\n\n', '<|eot_id|>'], stop: '<|eot_id|>' },
]

/**
 * A Modelfile for `ollama create`. Ollama does not run the model's Jinja template: where that writes conversations in a
 * format that is known here, the Modelfile says the same in Ollama's language, and otherwise nothing.
 * Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
 */
export function formatModelfile(tokenizer: Tokenizer, model: string, adapter: string | undefined): string {
  const lines = [`FROM ./${model}`, ...(adapter === undefined ? [] : [`ADAPTER ./${adapter}`])]
  const known = formats.map((format) => ({ format, system: systemOf(tokenizer, format) }))
  const found = known.find(({ system }) => system !== undefined)
  if (found === undefined) {
    lines.push("# No TEMPLATE: the model's chat template, if it has one, has no known counterpart in Ollama's language")
    return `${lines.join('\n')}\n`
  }
  const { format, system } = found
  lines.push(`TEMPLATE """${templateOf(format)}"""`, `PARAMETER stop "${format.stop}"`)
  if (system) lines.push(`SYSTEM """${system}"""`)
  return `${lines.join('\n')}\n`
}

const write = ({ turn: [start, middle, end] }: ChatFormat, messages: readonly ChatMessage[]): string =>
  [...messages.map(({ role, content }) => start + role + middle + content + end), `${start}assistant${middle}`].join('')

/** In the template language of Go, in which Ollama loops over the messages, the system's among them. */
const templateOf = ({ turn: [start, middle, end] }: ChatFormat): string =>
  `{{- range .Messages }}${start}{{ .Role }}${middle}{{ .Content }}${end}{{ end }}${start}assistant${middle}`

const conversation: readonly ChatMessage[] = [
  { role: 'user', content: 'A question' },
  { role: 'assistant', content: 'An answer' },
  { role: 'user', content: 'Another' },
]

/**
 * If the model's template writes conversations in this format: the system message that it adds to those without one, or ''.
 * The bos in front is left to Ollama.
 */
function systemOf(tokenizer: Tokenizer, format: ChatFormat): string | undefined {
  const system: ChatMessage = { role: 'system', content: 'Instructions' }
  if (render(tokenizer, [system, ...conversation]) !== write(format, [system, ...conversation])) return undefined
  const plain = render(tokenizer, conversation)
  const expected = write(format, conversation)
  if (!plain?.endsWith(expected)) return undefined
  const [start, middle, end] = format.turn
  const added = plain.slice(0, plain.length - expected.length)
  if (added === '') return ''
  const opening = `${start}system${middle}`
  return added.startsWith(opening) && added.endsWith(end) ? added.slice(opening.length, -end.length) : undefined
}

function render(tokenizer: Tokenizer, messages: readonly ChatMessage[]): string | undefined {
  if (tokenizer.chatTemplate === undefined) return undefined
  try {
    const text = renderChat(tokenizer, messages, { addGenerationPrompt: true })
    const bos = tokenizer.addBos ? (tokenizer.specialTokens.bos_token ?? '') : ''
    return text.startsWith(bos) ? text.slice(bos.length) : text
  } catch (error) {
    if (error instanceof LoramError) return undefined
    throw error
  }
}
