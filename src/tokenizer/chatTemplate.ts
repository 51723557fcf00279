import vm from 'node:vm'
import { Template } from '@huggingface/jinja'
import { DataError, messageOf } from '../errors.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant' | 'tool'
  content: string
  /** 0: an assistant turn that is not learnt (OpenAI's key). */
  weight?: number
}

const timeoutMilliseconds = 1000
const maxOutputLength = 1 << 20

/** The first sentence of an Alpaca prompt (tatsu-lab/stanford_alpaca, `train.py`); a system message takes its place. */
export const alpacaPreamble =
  'Below is an instruction that describes a task. Write a response that appropriately completes the request.'

/** Base models have no template: they get Alpaca's form, with Alpaca-LoRA's line feed after `### Response:`. */
const alpacaTemplate = `
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}{{ '${alpacaPreamble}' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{ '\\n\\n### Instruction:\\n' + message.content }}
{%- elif message.role == 'assistant' %}{{ '\\n\\n### Response:\\n' + message.content }}{{ eos_token }}
{%- elif message.role == 'tool' %}{{ raise_exception('this model has no chat template, and Alpaca\\'s form knows no tools') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '\\n\\n### Response:\\n' }}{% endif %}`

/**
 * Writes a conversation as the model's own chat template does, or in Alpaca's form where the model has none. Templates
 * come with models and are not trusted: they see only the messages and the special tokens, and stop after 1 s or 1 MiB.
 *
 * @throws {DataError} `E_TEMPLATE`: the template is not valid, refuses the conversation, or exceeds a limit.
 */
export function renderChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  { addGenerationPrompt = false }: { addGenerationPrompt?: boolean } = {},
): string {
  const source = tokenizer.chatTemplate ?? alpacaTemplate
  try {
    const text = withinTimeLimit(() =>
      compile(source).render({
        ...tokenizer.specialTokens,
        messages,
        tools: null,
        documents: null,
        add_generation_prompt: addGenerationPrompt,
      }),
    )
    if (text.length > maxOutputLength)
      throw new Error(`it wrote ${text.length} characters, the limit is ${maxOutputLength}`)
    return text
  } catch (cause) {
    const line = lineOf(source, messageOf(cause))
    throw new DataError('E_TEMPLATE', 'The chat template cannot write this conversation', {
      field: 'chat_template',
      ...(line !== undefined && { line }),
      found: messageOf(cause),
      remedy: 'mend the conversation, or the chat_template beside the model',
      cause,
    })
  }
}

const compiled = new Map<string, Template>()

function compile(source: string): Template {
  const known = compiled.get(source)
  if (known !== undefined) return known
  const template = new Template(source)
  compiled.set(source, template)
  return template
}

const sandbox: { run?: () => string } = vm.createContext({})
const runner = new vm.Script('run()')

/** V8 checks a script's time limit also in the functions it calls, so this stops any synchronous work. */
function withinTimeLimit(run: () => string): string {
  sandbox.run = run
  return runner.runInContext(sandbox, { timeout: timeoutMilliseconds })
}

/** The interpreter reports no lines: looks for what its message names, or for the message a template raised itself. */
function lineOf(source: string, message: string): number | undefined {
  const lines = source.split('\n')
  const named = [message, message.slice(message.lastIndexOf(':') + 1).trim()]
  const index = lines.findIndex((line) => named.some((name) => name !== '' && line.includes(name)))
  return index < 0 ? undefined : index + 1
}
