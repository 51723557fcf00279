import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** Where the golden numbers lie. GOLDEN points the same tests at another folder of the same form, made with another seed. */
export const goldenDir = process.env.GOLDEN ?? fileURLToPath(new URL('./fixtures/golden', import.meta.url))

export const goldenPath = (...parts: string[]): string => path.join(goldenDir, ...parts)

/** A list of numbers in a folder's golden.json, such as the losses of a training trace. */
export function goldenValues(folder: string, name: string): number[] {
  return JSON.parse(readFileSync(goldenPath(folder, 'golden.json'), 'utf8')).values[name]
}
