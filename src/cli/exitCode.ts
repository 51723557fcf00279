import {
  AbortError,
  AdapterError,
  ConfigError,
  DataError,
  DeviceError,
  FileError,
  MemoryError,
  ModelError,
  PlanError,
  RunError,
} from '../errors.ts'

/** What the exit codes of the command mean. */
export const exitCodes = {
  0: 'done',
  1: 'unexpected: a bug in loram',
  2: 'usage or configuration: a flag, an option, the configuration file',
  3: 'input: files, data, model, adapter, pruning plan',
  4: 'resources: memory, device, native addon, disk',
  5: 'the run: folder locked, resumed with other options, loss not a number, newer version',
  130: 'interrupted: SIGINT, SIGTERM, or nobody reads stdout any more',
} as const
export type ExitCode = keyof typeof exitCodes

const inputErrors = [FileError, ModelError, AdapterError, PlanError, DataError]
const resourceErrors = [MemoryError, DeviceError]

export function exitCodeOf(error: unknown): ExitCode {
  const is = (kind: abstract new (...args: never[]) => Error) => error instanceof kind
  if (is(AbortError)) return 130
  if (is(ConfigError)) return 2
  if (inputErrors.some(is)) return 3
  if (resourceErrors.some(is) || (error instanceof RunError && error.code === 'E_DISK')) return 4
  return is(RunError) ? 5 : 1
}
