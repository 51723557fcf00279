import { createServer } from 'node:net'

/** A port that nobody listens on, below those that the system gives away by itself: no other test gets it in between. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const probe = createServer().listen(port, '127.0.0.1')
    const isFree = await new Promise((resolve) => {
      probe.once('listening', () => resolve(true))
      probe.once('error', () => resolve(false))
    })
    if (!isFree) continue
    await new Promise((resolve) => probe.close(resolve))
    return port
  }
}
