import { once } from 'node:events'
import * as api from '../../api/serve.ts'
import { serveOptions } from '../../options/index.ts'
import { command } from '../command.ts'
import { notice, printJson } from '../output.ts'
import { abortOnSignal } from '../signals.ts'

export const serve = command({
  name: 'serve',
  description: "Answer requests over HTTP, with OpenAI's API, until SIGINT or SIGTERM",
  options: serveOptions,
  async run(options, json) {
    const apiKey = options.apiKey ?? process.env.LORAM_API_KEY
    const server = await api.serve({ ...options, apiKey })
    const { url, models, contextLength } = server
    notice(`${url} serves ${models.join(', ')} with a context of ${contextLength} tokens`)
    if (json) printJson({ url, models, contextLength })
    const signal = abortOnSignal(notice, 'stopping when running requests have their answers')
    await once(signal, 'abort')
    await server.close()
    return { url }
  },
  show: ({ url }) => `stopped ${url}`,
})
