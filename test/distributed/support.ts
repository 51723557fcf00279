import { readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Running, start } from '../cli/support.ts'

const sockets = fileURLToPath(new URL('sockets.mjs', import.meta.url))

/**
 * A MASTER_PORT whose next, which rank 0 listens on, is free: below those that the system gives away by itself, so that no other
 * test gets it in between.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const probe = createServer().listen(port + 1, '127.0.0.1')
    const isFree = await new Promise((resolve) => {
      probe.once('listening', () => resolve(true))
      probe.once('error', () => resolve(false))
    })
    if (!isFree) continue
    await new Promise((resolve) => probe.close(resolve))
    return port
  }
}

/** Starts a command as so many ranks, with sockets in NCCL's place. */
export async function startRanks(
  size: number,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Running[]> {
  const port = String(await freePort())
  return Array.from({ length: size }, (_, rank) =>
    start(args, {
      env: {
        ...{ RANK: String(rank), WORLD_SIZE: String(size), LOCAL_RANK: String(rank) },
        ...{ MASTER_ADDR: '127.0.0.1', MASTER_PORT: port, LORAM_THREADS: '1' },
        ...{ NODE_OPTIONS: `--import ${sockets}`, LORAM_TIMEOUT: '5', ...env },
      },
    }),
  )
}

export const checkpointsIn = (output: string): string[] => readdirSync(path.join(output, 'run/checkpoints')).sort()
