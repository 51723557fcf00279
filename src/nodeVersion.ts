import { createRequire } from 'node:module'
import { DeviceError } from './errors.ts'

/**
 * Says that Node is too old, before something fails for that reason without saying so.
 * @throws {DeviceError} `E_NODE`
 */
export function checkNode(): void {
  const { engines } = createRequire(import.meta.url)('../package.json') as { engines: { node: string } }
  const oldest = engines.node.replace('>=', '')
  const found = process.versions.node
  if (found.localeCompare(oldest, undefined, { numeric: true }) >= 0) return
  throw new DeviceError('E_NODE', 'this Node is too old', {
    expected: `${oldest} or newer`,
    found,
    remedy: 'install a current one: https://nodejs.org/en/download',
  })
}
