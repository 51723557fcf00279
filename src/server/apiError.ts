import { HTTPException } from 'hono/http-exception'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { AbortError, ConfigError, DataError, LoramError } from '../errors.ts'

/** An answer that is an error, in OpenAI's form. */
export class ApiError extends Error {
  readonly status: ContentfulStatusCode
  /** For programs, beside the status. */
  readonly code: string | null
  /** The request's field that is at fault. */
  readonly param: string | null
  readonly headers: Record<string, string>

  constructor(
    status: ContentfulStatusCode,
    message: string,
    details: { code?: string; param?: string; headers?: Record<string, string> } = {},
  ) {
    super(message)
    this.status = status
    this.code = details.code ?? null
    this.param = details.param ?? null
    this.headers = details.headers ?? {}
  }

  get body() {
    const { message, param, code } = this
    return { error: { message, type: this.status < 500 ? 'invalid_request_error' : 'server_error', param, code } }
  }
}

/** Whatever a handler threw. What is no fault of the request is logged, and not described to its sender. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error
  if (error instanceof HTTPException) return new ApiError(error.status as ContentfulStatusCode, error.message)
  if (error instanceof AbortError) return new ApiError(503, 'the server is shutting down', { code: error.code })
  if (error instanceof ConfigError || error instanceof DataError) {
    const { field } = error.details
    return new ApiError(400, error.message, { code: error.code, ...(field !== undefined && { param: field }) })
  }
  console.error(error)
  return new ApiError(500, 'the server failed', { code: error instanceof LoramError ? error.code : 'E_UNEXPECTED' })
}
