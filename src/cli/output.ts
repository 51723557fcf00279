import { LoramError, messageOf } from '../errors.ts'

/** `rows` as two columns. */
export function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([label]) => label.length))
  return rows.map(([label, value]) => `${label.padEnd(width)}  ${value}`.trimEnd()).join('\n')
}

/** Tells people something that is no result. */
export const notice = (message: string): boolean => process.stderr.write(`${message}\n`)

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}

/** An error for people on stderr, and with `json` for programs as the last line of stdout. */
export function printError(error: unknown, json: boolean): void {
  const isExpected = error instanceof LoramError
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error)
  const hint = isExpected ? '' : '\nThis is a bug in loram; LORAM_DEBUG=1 shows where.'
  notice(`loram: ${process.env.LORAM_DEBUG ? stack : messageOf(error) + hint}`)
  if (json) printJson({ error: plain(error) })
}

function plain(error: unknown): object {
  if (!(error instanceof LoramError)) return { name: 'Error', code: 'E_UNEXPECTED', message: messageOf(error) }
  const { cause: _, ...details } = error.details
  return { name: error.name, code: error.code, message: error.message, ...details }
}
