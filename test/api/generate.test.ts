import { type ChatMessage, loadModel } from 'loram'
import { afterAll, expect, test } from 'vitest'
import { writeEndlessModel } from '../server/support.ts'

const endless = await loadModel(writeEndlessModel(), { device: 'cpu' })
const demo = await loadModel('demo/model', { device: 'cpu' })
afterAll(() => Promise.all([endless.close(), demo.close()]))

test('whoever stops to read ends what is generated', { timeout: 5000 }, async () => {
  for await (const text of endless.generate('a', { maxNewTokens: 60_000 })) if (text) break
  expect((await endless.complete('a', { maxNewTokens: 1 })).tokenIds).toHaveLength(1)
})

test('no more is generated than the model has room for, unless more is asked for', async () => {
  const prompt = 'a'.repeat(500)
  const { promptTokens, tokenIds } = await demo.complete(prompt)
  expect(promptTokens).toBe(501)
  expect(tokenIds.length).toBeLessThanOrEqual(11)
  await expect(demo.complete(prompt, { maxNewTokens: 12 })).rejects.toMatchObject({
    code: 'E_CONFIG',
    details: { field: 'maxNewTokens', found: '501 + 12' },
  })
  await expect(demo.complete('a'.repeat(512))).rejects.toMatchObject({ code: 'E_CONFIG' })
})

test('a conversation that does not fit is refused by the name of its message', async () => {
  const refusal = (messages: unknown) =>
    endless
      .chat(messages as ChatMessage[])
      [Symbol.asyncIterator]()
      .next()
  for (const [messages, details] of [
    [[], { field: 'messages' }],
    [undefined, { field: 'messages', expected: 'array', found: 'nothing' }],
    [[{ role: 'nobody', content: 'a' }], { field: 'messages.0.role', found: '"nobody"' }],
    [[{ role: 'user', content: 'a', name: 'b' }], { field: 'messages.0.name', expected: 'role, content' }],
  ]) {
    await expect(refusal(messages)).rejects.toMatchObject({ code: 'E_CONFIG', details })
  }
})

test('a model that is closed says so to who reads from it', { timeout: 5000 }, async () => {
  const closing = await loadModel('demo/model', { device: 'cpu' })
  const closed = { code: 'E_WORKER', message: expect.stringMatching(/the model .* was closed/) }
  const read = async () => {
    for await (const _ of closing.generate('a')) await closing.close()
  }
  await expect(read()).rejects.toMatchObject(closed)
  await expect(
    closing
      .chat([{ role: 'user', content: 'a' }])
      [Symbol.asyncIterator]()
      .next(),
  ).rejects.toMatchObject(closed)
  await closing.close()
})

test('an answer in a conversation is longer, where no number is given', async () => {
  expect((await endless.complete('a')).tokenIds).toHaveLength(128)
  expect((await endless.complete('a', { chat: true })).tokenIds).toHaveLength(512)
})
