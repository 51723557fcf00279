import { readdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Running, start } from '../cli/support.ts'
import { freePort } from '../freePort.ts'

const sockets = fileURLToPath(new URL('sockets.mjs', import.meta.url))

/** A MASTER_PORT: rank 0 listens on the next. */
export const masterPort = async (): Promise<number> => (await freePort()) - 1

/** Starts a command as so many ranks, with sockets in NCCL's place. */
export async function startRanks(
  size: number,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Running[]> {
  const port = String(await masterPort())
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
