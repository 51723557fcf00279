import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, expect } from 'vitest'

/** A new folder that is removed after the file's tests, with a name that begins so. */
export function scratchFolder(prefix = 'loram-'): string {
  const dir = mkdtempSync(path.join(tmpdir(), prefix))
  afterAll(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** Expects a LoramError with this code and, at least, these details. */
export function expectError(action: () => unknown, code: string, details: object = {}): void {
  expect(action).toThrow(expect.objectContaining({ code, details: expect.objectContaining(details) }))
}
