import { createInterface } from 'node:readline'
import { type LargeModel, loadModel } from '../../api/loadModel.ts'
import { AbortError, ConfigError, DataError, MemoryError, messageOf } from '../../errors.ts'
import { type ChatMessage, chatCommandOptions, type SamplingOptions } from '../../options/index.ts'
import { command } from '../command.ts'
import { notice } from '../output.ts'

export const chat = command({
  name: 'chat',
  description: 'A conversation with a model: a message a line, /exit or end of input ends it, Ctrl-C an answer',
  options: chatCommandOptions,
  async run(
    { model, adapter, quantize, quantizeTables, device, system, ...sampling },
    json,
  ): Promise<{ messages: ChatMessage[] }> {
    const large = await loadModel(model, { adapter, quantize, quantizeTables, device })
    const messages: ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: system }]
    const show = json ? () => {} : (text: string) => process.stdout.write(text)
    try {
      await converse(large, messages, sampling, show)
    } finally {
      await large.close()
    }
    return { messages }
  },
  show: () => '',
})

/** Reads lines of stdin as messages, and adds them and their answers to `messages`. */
async function converse(
  large: LargeModel,
  messages: ChatMessage[],
  sampling: SamplingOptions,
  show: (text: string) => void,
): Promise<void> {
  let answering: AbortController | undefined
  const lines = createInterface({
    input: process.stdin,
    ...(process.stdin.isTTY && { output: process.stderr }),
    prompt: '> ',
  })
  const interrupt = () => (answering ? answering.abort() : lines.close())
  lines.on('SIGINT', interrupt) // on a terminal, which readline reads key by key
  process.on('SIGINT', interrupt)
  try {
    lines.prompt()
    for await (const content of lines) {
      if (content.trim() === '/exit') break
      if (content.trim() !== '') {
        answering = new AbortController()
        messages.push({ role: 'user', content })
        const text = await answer(answering.signal)
        if (text === undefined) messages.pop()
        else messages.push({ role: 'assistant', content: text })
        answering = undefined
      }
      lines.prompt()
    }
  } finally {
    process.off('SIGINT', interrupt)
    lines.close()
  }

  /** `undefined`: there is none to this message, but there may be to another. */
  async function answer(signal: AbortSignal): Promise<string | undefined> {
    const pieces: string[] = []
    try {
      for await (const text of large.chat(messages, { ...sampling, signal })) {
        pieces.push(text)
        show(text)
      }
    } catch (error) {
      if (!(error instanceof AbortError)) return unanswered(error)
      notice(' (interrupted)')
    }
    show('\n')
    return pieces.join('')
  }
}

/** Says why a message has no answer, where that is for what it holds. */
function unanswered(error: unknown): undefined {
  const isOfMessage = [ConfigError, DataError, MemoryError].some((kind) => error instanceof kind)
  if (!isOfMessage) throw error
  notice(messageOf(error))
}
