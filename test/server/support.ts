import { readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import path from 'node:path'
import { type RunningServer, type ServeOptions, serve } from 'loram'
import OpenAI from 'openai'
import { afterAll } from 'vitest'
import { writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'

export const adapterFolder = goldenPath('loram', 'adapter-recovered')

/** A tiny model with a long context that never ends an answer by itself, in a folder called `base`. */
export function writeEndlessModel(): string {
  const dir = writeTinyModel(path.join(scratchFolder(), 'base'))
  for (const [name, changes] of [
    ['config.json', { eos_token_id: undefined, max_position_embeddings: 65536 }],
    ['generation_config.json', { eos_token_id: undefined }],
  ] as const) {
    const file = path.join(dir, name)
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...changes }))
  }
  return dir
}

/** Starts a server on a free port; it is closed when the file's tests are over, if not before. */
export async function startServer(model: string, options: Partial<ServeOptions> = {}): Promise<RunningServer> {
  const server = await serve({
    model,
    adapter: [`tuned=${adapterFolder}`],
    port: 0,
    device: 'cpu',
    shutdownTimeout: 1,
    ...options,
  })
  let closed: Promise<void> | undefined
  const close = () => (closed ??= server.close())
  afterAll(close)
  return { ...server, close }
}

/** The official client. It would try again what fails; tests want to see the failure. */
export const clientOf = ({ url }: RunningServer, apiKey = 'none'): OpenAI =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 })

/** The value of a metric's line, such as `loram_completions_running`. */
export async function metric({ url }: RunningServer, line: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const value = text.split('\n').find((candidate) => candidate.startsWith(`${line} `))
  return value === undefined ? 0 : Number(value.slice(line.length))
}

/** A connection below HTTP, and everything the server has written to it. */
export function openSocket({ url }: RunningServer): Promise<{ socket: Socket; answer: Promise<string> }> {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk
  })
  socket.on('error', () => {}) // the server may close while we write
  const answer = new Promise<string>((resolve) => socket.on('close', () => resolve(text)))
  return new Promise((resolve) => socket.once('connect', () => resolve({ socket, answer })))
}

/** Waits for a condition that something else brings about. */
export async function until(condition: () => boolean | Promise<boolean>, milliseconds = 5000): Promise<void> {
  for (const end = Date.now() + milliseconds; !(await condition()); ) {
    if (Date.now() > end) throw new Error('what was waited for did not happen')
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

export async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const all: Item[] = []
  for await (const item of items) all.push(item)
  return all
}
