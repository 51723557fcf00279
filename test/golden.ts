import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** Where the golden numbers lie. GOLDEN points the same tests at another folder of the same form, made with another seed. */
export const goldenDir = process.env.GOLDEN ?? fileURLToPath(new URL('./fixtures/golden', import.meta.url))

export const goldenPath = (...parts: string[]): string => path.join(goldenDir, ...parts)

/** The `values` of a folder's golden.json: scalars and lists that belong to its tensors. */
export function goldenValues(folder: string): Record<string, any> {
  return JSON.parse(readFileSync(goldenPath(folder, 'golden.json'), 'utf8')).values
}
