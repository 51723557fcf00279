import type { Socket } from 'node:net'
import { z } from 'zod'

/** From a rank to the leader. `round` counts how often it met the others; see {@link State}. */
export const fromMember = z.discriminatedUnion('type', [
  z.object({ type: z.literal('hello'), version: z.string(), rank: z.int(), size: z.int(), host: z.string() }),
  z.object({ type: z.literal('alive'), round: z.int(), waits: z.boolean() }),
  z.object({ type: z.literal('failed'), reason: z.string(), aborted: z.boolean() }),
  z.object({ type: z.literal('left') }),
])
export type FromMember = z.infer<typeof fromMember>

/** Why all must stop. Without a rank it is nobody's fault that is known. */
export const verdictSchema = z.object({
  rank: z.int().exactOptional(),
  host: z.string().exactOptional(),
  reason: z.string(),
  /** Somebody asked that rank to stop. */
  aborted: z.boolean(),
})
export type Verdict = z.infer<typeof verdictSchema>

/** From the leader to a rank. */
export const fromLeader = z.discriminatedUnion('type', [
  z.object({ type: z.literal('welcome'), id: z.string() }),
  z.object({ type: z.literal('refused'), expected: z.string(), found: z.string() }),
  z.object({ type: z.literal('alive') }),
  z.object({ type: z.literal('verdict'), verdict: verdictSchema }),
  z.object({ type: z.literal('left') }),
])
export type FromLeader = z.infer<typeof fromLeader>

/** More than any message has; whoever sends more is no rank. */
const maxLine = 64 << 10

/** Messages over a socket, each a line of JSON. What is no such message ends the connection. */
export class Wire<Incoming, Outgoing> {
  /** When something came last, by performance.now(). */
  heard = performance.now()
  private readonly socket: Socket
  private pending = ''

  constructor(socket: Socket, schema: z.ZodType<Incoming>, receive: (message: Incoming) => void, closed: () => void) {
    this.socket = socket
    socket.setNoDelay(true).setEncoding('utf8')
    socket.on('data', (text: string) => {
      this.heard = performance.now()
      const lines = (this.pending + text).split('\n')
      this.pending = lines.pop()!
      if (this.pending.length > maxLine) socket.destroy()
      for (const line of lines) {
        const message = parsed(schema, line)
        if (message === undefined) socket.destroy()
        if (socket.destroyed) return
        receive(message!)
      }
    })
    // An error is followed by close
    socket.on('error', () => {})
    socket.on('close', closed)
  }

  send(message: Outgoing): void {
    if (this.socket.writable) this.socket.write(`${JSON.stringify(message)}\n`)
  }

  /** Sends what is under way, then closes. */
  end(): void {
    this.socket.end()
  }

  close(): void {
    this.socket.destroy()
  }
}

function parsed<Message>(schema: z.ZodType<Message>, line: string): Message | undefined {
  try {
    return schema.safeParse(JSON.parse(line)).data
  } catch {
    return undefined
  }
}
