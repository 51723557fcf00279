import { ConfigError } from '../errors.ts'
import type { Loading } from '../model/open.ts'

const units: Record<string, number> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
}

/** Bytes of "12 GiB", "800MB" or a number. */
export function parseBytes(text: string | number, field: string): number {
  if (typeof text === 'number') return text
  const [, number, unit] = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text) ?? []
  const factor = units[(unit || 'b').toLowerCase()]
  if (number && factor) return Math.floor(Number(number) * factor)
  throw new ConfigError('E_CONFIG', 'not an amount of memory', {
    field,
    expected: 'such as "12 GiB" or "800MB"',
    found: text,
  })
}

/** "9.21 GiB": three digits in the largest binary unit that gives 1 or more. */
export function formatBytes(bytes: number): string {
  const steps = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  const step = Math.min(steps.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)))
  const value = bytes / 2 ** (10 * step)
  return `${step === 0 ? value : value.toPrecision(3)} ${steps[step]}`
}

const thousands: Record<string, number> = { '': 1, k: 1e3, m: 1e6, b: 1e9 }

/** The number that "17.85B", "135M" or a number means. */
export function parseCount(text: string | number, field: string): number {
  if (typeof text === 'number') return text
  const [, number, unit] = /^\s*(\d+(?:\.\d+)?)\s*([kmb]?)\s*$/i.exec(text) ?? []
  if (number) return Math.round(Number(number) * thousands[unit!.toLowerCase()]!)
  throw new ConfigError('E_CONFIG', 'not a number of parameters', {
    field,
    expected: 'such as "17.85B" or "135M"',
    found: text,
  })
}

/** "5.31 GiB of weights in 4.2 s" */
export const describeLoading = ({ bytes, seconds }: Loading): string =>
  `${formatBytes(bytes)} of weights in ${seconds.toFixed(1)} s`
