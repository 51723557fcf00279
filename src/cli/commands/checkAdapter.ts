import * as api from '../../api/checkAdapter.ts'
import { checkAdapterOptions } from '../../options/index.ts'
import { command } from '../command.ts'
import type { ExitCode } from '../exitCode.ts'

const headlines = { refused: 'is refused', wrong: 'loads, but computes something else', note: 'note' }

export const checkAdapter = command({
  name: 'check-adapter',
  description: 'Whether PEFT, vLLM, llama.cpp or Ollama would take an adapter, and why not',
  options: checkAdapterOptions,
  argument: 'adapter',
  async run(options) {
    const check = api.checkAdapter(options)
    if (!check.accepted) process.exitCode = 3 satisfies ExitCode
    return check
  },
  show: ({ adapter, for: consumer, accepted, findings }) =>
    [
      `${consumer} ${accepted ? 'takes' : 'does not take'} ${adapter}`,
      ...findings.flatMap(({ verdict, field, found, expected, remedy, source }) => [
        `${headlines[verdict]}: ${field}`,
        `  found     ${found}`,
        `  expected  ${expected}`,
        `  remedy    ${remedy}`,
        `  source    ${source}`,
      ]),
    ].join('\n'),
})
