/** What an error carries beside its headline; every part is printed on a line of its own. */
export interface ErrorDetails {
  file?: string
  line?: number
  tensor?: string
  field?: string
  expected?: string
  found?: string
  /** What the user can do about it, as an instruction. */
  remedy?: string
  cause?: unknown
}

const shown = ['file', 'line', 'tensor', 'field', 'expected', 'found', 'remedy'] as const

/**
 * Base of every error loram throws on purpose. `code` is stable across versions (docs/errors.md lists all of them),
 * `message` is for people and names the offending thing, what was expected, what was found and the remedy.
 */
export class LoramError extends Error {
  override name = 'LoramError'
  readonly code: string
  readonly headline: string
  readonly details: ErrorDetails

  constructor(code: string, headline: string, details: ErrorDetails = {}) {
    const { cause } = details
    super(render(code, headline, details), cause === undefined ? undefined : { cause })
    this.code = code
    this.headline = headline
    this.details = details
  }
}

function render(code: string, headline: string, details: ErrorDetails): string {
  const lines = shown.flatMap((key) => (details[key] === undefined ? [] : [`  ${key.padEnd(10)}${details[key]}`]))
  return [`[${code}] ${headline}`, ...lines].join('\n')
}

/** A file's bytes are not what its format says: `E_TRUNCATED`, `E_HEADER`, `E_OFFSETS`, `E_PATH`, `E_INDEX`, `E_FILE`. */
export class FileError extends LoramError {
  override name = 'FileError'
}
/** A checkpoint does not describe a model that loram runs: `E_MODEL`, `E_DTYPE`, `E_SHAPE`, `E_NONFINITE`. */
export class ModelError extends LoramError {
  override name = 'ModelError'
}
/** An adapter cannot be used, or not with this base model: `E_ADAPTER`, `E_ADAPTER_BASE`. */
export class AdapterError extends LoramError {
  override name = 'AdapterError'
}
/** `pruning.json` is missing, damaged, or belongs to another model: `E_PLAN`. */
export class PlanError extends LoramError {
  override name = 'PlanError'
}
/** Training or evaluation data: `E_DATA`, `E_TEMPLATE`, `E_TOKENIZER`. */
export class DataError extends LoramError {
  override name = 'DataError'
}
/** An option, flag or configuration file: `E_CONFIG`. */
export class ConfigError extends LoramError {
  override name = 'ConfigError'
}
/** Something does not fit: `E_MEMORY`; on the GPU `E_GPU_OOM`. */
export class MemoryError extends LoramError {
  override name = 'MemoryError'
}
/** A device, NCCL or the native addon is not usable: `E_ADDON`, `E_BUILD`, `E_NODE`, `E_CUDA_NOT_BUILT`; or failed: `E_CUDA`, `E_NCCL`. */
export class DeviceError extends LoramError {
  override name = 'DeviceError'
}
/** Saving and resuming: `E_VERSION`, `E_LOCKED`, `E_DISK`, `E_RESUME`, `E_NAN_LOSS`; several processes: `E_RENDEZVOUS`, `E_RANK`, `E_DIVERGED`. */
export class RunError extends LoramError {
  override name = 'RunError'
}
/** An op was called with tensors it is not defined for: `E_OP`. */
export class OpError extends LoramError {
  override name = 'OpError'
}
/** The caller's AbortSignal, SIGINT or SIGTERM stopped the work: `E_ABORTED`. Named as the web platform names it. */
export class AbortError extends LoramError {
  override name = 'AbortError'
  constructor(headline: string, details: ErrorDetails = {}) {
    super('E_ABORTED', headline, details)
  }
}

const classes = {
  LoramError,
  FileError,
  ModelError,
  AdapterError,
  PlanError,
  DataError,
  ConfigError,
  MemoryError,
  DeviceError,
  RunError,
  OpError,
}

/** An error as data that crosses threads; the counterpart of {@link reviveError}. */
export type PlainError = {
  name: string
  code: string
  headline: string
  details: ErrorDetails
  stack: string | undefined
}

export function plainError(error: unknown): PlainError {
  const { stack } = error instanceof Error ? error : new Error(String(error))
  if (!(error instanceof LoramError)) return { name: 'Error', code: '', headline: messageOf(error), details: {}, stack }
  const { cause, ...details } = error.details
  return { name: error.name, code: error.code, headline: error.headline, details, stack }
}

/** The error that {@link plainError} took apart, of the same class, with the stack of where it was thrown. */
export function reviveError({ name, code, headline, details, stack }: PlainError): Error {
  const error =
    name === 'AbortError'
      ? new AbortError(headline, details)
      : name in classes
        ? new classes[name as keyof typeof classes](code, headline, details)
        : new Error(headline)
  if (stack !== undefined) error.stack = stack
  return error
}

/** Whatever was thrown, as its first line: for messages that wrap another error. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
