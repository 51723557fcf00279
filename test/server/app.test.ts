import { EventEmitter } from 'node:events'
import { expect, test, vi } from 'vitest'
import type { CompletionEvent } from '../../src/infer/scheduler.ts'
import { createApp } from '../../src/server/app.ts'
import type { EngineClient } from '../../src/server/engineClient.ts'

const bug = new TypeError('nobody thought of this')

/** An engine that fails after the first part of an answer. */
const engine = {
  running: 0,
  waiting: 0,
  isAlive: true,
  async *complete(): AsyncGenerator<CompletionEvent, void> {
    yield { index: 0, part: { text: 'a', tokens: [] } }
    throw bug
  },
} as unknown as EngineClient

const app = createApp({
  engine,
  models: ['base'],
  ending: new AbortController().signal,
  version: '0',
  apiKey: undefined,
  isOpen: () => true,
})

test.each([
  ['whole', false],
  ['in chunks', true],
])('an answer %s that fails is logged, and its sender is told no more than that', async (_, stream) => {
  const log = vi.spyOn(console, 'error').mockImplementation(() => {})
  const request = {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ model: 'base', prompt: 'a', stream }),
  }
  const answer = await app.request('/v1/completions', request, { outgoing: new EventEmitter() })
  const text = await answer.text()
  expect(text).toContain('"code":"E_UNEXPECTED"')
  expect(text).not.toContain(bug.message)
  expect(log.mock.calls).toEqual([[bug]])
  log.mockRestore()
})
