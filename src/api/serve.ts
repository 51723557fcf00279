import path from 'node:path'
import { ConfigError } from '../errors.ts'
import { type ServeOptions, serveOptions } from '../options/index.ts'
import { version } from '../package.ts'
import type { Listening } from '../server/listen.ts'
import { validate } from '../validate.ts'
import { WorkerClient } from '../worker/client.ts'

/** A server that runs. */
export interface RunningServer extends Listening {
  /** The names that requests may have for a model: the base model's, which is that of its folder, then the adapters'. */
  models: readonly string[]
  /** Tokens of a prompt and its completion together. */
  contextLength: number
}

/**
 * Serves a model, and adapters for it, as OpenAI's API has it: completions, chat completions, models; beside them `/health`,
 * `/metrics` and `/openapi.json`.
 * @throws {LoramError} see docs/errors.md
 * @example
 * const server = await serve({ model: './Llama-3.1-8B', adapter: ['support=./my-adapter'], port: 8000 })
 * console.log(server.url, server.models)
 */
export async function serve(options: ServeOptions): Promise<RunningServer> {
  const { adapter, apiKey, ...given } = validate(serveOptions, options)
  const { model, quantize, quantizeTables, device, maxSequences, contextLength } = given
  const name = path.basename(path.resolve(model))
  const adapters = namedFolders(adapter, name)
  const models = [name, ...adapters.keys()]
  const worker = new WorkerClient()
  try {
    const base = { model, quantize, quantizeTables, device, name }
    const opened = await worker.call('serve', { ...base, adapters, maxSequences, contextLength })
    const { listen } = await import('../server/listen.ts') // a web framework, which only servers should wait for
    const { url, close } = await listen({ ...given, worker, models, apiKey, version })
    const closeAll = () => close().then(() => worker.close())
    return { url, models, contextLength: opened.contextLength, close: closeAll }
  } catch (error) {
    await worker.close()
    throw error
  }
}

/** `name=folder` by name; no name twice. */
function namedFolders(adapters: readonly string[], base: string): Map<string, string> {
  const folders = new Map<string, string>()
  for (const adapter of adapters) {
    const [, name, folder] = /^([^=]+)=(.+)$/s.exec(adapter)!
    if (name === base || folders.has(name!)) {
      throw new ConfigError('E_CONFIG', `two models would be called ${name}`, { field: 'adapter', found: adapter })
    }
    folders.set(name!, folder!)
  }
  return folders
}
