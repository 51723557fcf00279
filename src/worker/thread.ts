// The worker thread's entry: answers each request with events and one result or error. A request has the thread to itself
// but where it awaits something, as completions do between the steps of their engine.
import { parentPort } from 'node:worker_threads'
import { plainError } from '../errors.ts'
import { methods } from './methods.ts'
import type { Context, Request, Response } from './protocol.ts'

const port = parentPort!
const post = (response: Response) => port.postMessage(response)

port.on('message', (request: Request) => void answer(request))

async function answer({ id, method, options, abort }: Request): Promise<void> {
  const flag = new Int32Array(abort)
  const context: Context<unknown> = {
    emit: (event) => post({ id, event }),
    signal: {
      get aborted() {
        return Atomics.load(flag, 0) === 1
      },
    },
  }
  try {
    const run = methods[method as keyof typeof methods] as (options: unknown, context: Context<unknown>) => unknown
    post({ id, result: await run(options, context) })
  } catch (error) {
    post({ id, error: plainError(error) })
  }
}
