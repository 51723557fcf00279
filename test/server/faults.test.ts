import os from 'node:os'
import { serve } from 'loram'
import { describe, expect, test, vi } from 'vitest'
import { clientOf, collect, metric, openSocket, startServer, until, writeEndlessModel } from './support.ts'

const model = writeEndlessModel()
const options = { maxSequences: 2, maxQueue: 2, contextLength: 60_000, requestTimeout: 1 }
const server = await startServer(model, options)
const client = clientOf(server)

const route = '/v1/completions'
const post = (body: string, headers: Record<string, string> = { 'Content-Type': 'application/json' }) =>
  fetch(server.url + route, { method: 'POST', headers, body })
const endless = { model: 'base', prompt: 'a', max_tokens: 50_000, temperature: 0 }
const running = () => metric(server, 'loram_completions_running')
const waiting = () => metric(server, 'loram_completions_waiting')
const answers = async () =>
  expect((await client.completions.create({ ...endless, max_tokens: 2 })).choices[0]!.finish_reason).toBe('length')

describe('a body', () => {
  test.each([
    ['that is cut off', '{"model": "base", "prompt'],
    ['that is no object', '"base"'],
    ['that is empty', ''],
    ['deeper than any parser likes', `{"model":${'['.repeat(100_000)}`],
  ])('%s is answered with 400', async (_, body) => {
    const answer = await post(body)
    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({ error: { type: 'invalid_request_error' } })
  })

  test('with a prompt of another kind is told what a prompt is', async () => {
    const answer = await post(JSON.stringify({ ...endless, prompt: [] }))
    expect(await answer.json()).toMatchObject({
      error: { param: 'prompt', message: expect.stringContaining('a text') },
    })
  })

  // what a page of another origin can send without asking
  test('that does not say it is JSON is answered with 415', async () => {
    const answer = await post(JSON.stringify(endless), { 'Content-Type': 'text/plain' })
    expect(answer.status).toBe(415)
    expect(await answer.json()).toMatchObject({ error: { type: 'invalid_request_error' } })
  })

  test('of 100 MB is answered with 413 before it is sent', async () => {
    const { socket, answer } = await openSocket(server)
    socket.write(
      `POST ${route} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n{`,
    )
    await until(() => socket.bytesRead > 0)
    socket.destroy()
    expect(await answer).toMatch(/^HTTP\/1.1 413 [\s\S]*a request may have 1048576 bytes/)
  })

  test('without a length is read', async () => {
    const text = JSON.stringify({ ...endless, max_tokens: 2 })
    const halves = [text.slice(0, 20), text.slice(20)].map((half) => new TextEncoder().encode(half))
    const body = new ReadableStream({ pull: (stream) => (halves[0] ? stream.enqueue(halves.shift()) : stream.close()) })
    const headers = { 'Content-Type': 'application/json' }
    const answer = await fetch(server.url + route, { method: 'POST', headers, body, duplex: 'half' } as RequestInit)
    expect(await answer.json()).toMatchObject({ choices: [{ finish_reason: 'length' }] })
  })

  test('without a length is answered with 413 where it becomes too long', async () => {
    const { socket, answer } = await openSocket(server)
    socket.write(
      `POST ${route} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n`,
    )
    const chunk = `10000\r\n${' '.repeat(0x10000)}\r\n`
    for (let i = 0; i < 20; i++) socket.write(chunk)
    await until(() => socket.bytesRead > 0)
    socket.destroy()
    expect(await answer).toMatch(/^HTTP\/1.1 413 /)
  })

  test('that is not there, and is not said to be JSON, is answered with 400', async () => {
    expect((await fetch(server.url + route, { method: 'POST' })).status).toBe(400)
  })
})

test.each([
  ['OPTIONS', route],
  ['DELETE', '/v1/models'],
])('%s %s is not there', async (method, path) => {
  const answer = await fetch(server.url + path, { method })
  expect(answer.status).toBe(404)
  expect(await answer.json()).toMatchObject({ error: { message: `there is no ${method} ${path}` } })
})

test('nothing is where nothing is', async () => {
  for (const path of ['/', '/v1', '/v1/../etc/passwd', '/v1/completions/x', '/v1/models/..%2f..']) {
    const answer = await fetch(server.url + path)
    expect([path, answer.status]).toEqual([path, 404])
    expect(await answer.json()).toMatchObject({ error: { type: 'invalid_request_error' } })
  }
})

describe('a client that is slow', () => {
  test.each([
    ['with its headers', `POST ${route} HTTP/1.1\r\nHost: a\r\n`],
    [
      'with its body',
      `POST ${route} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{`,
    ],
    [
      'with its body, of no length',
      `POST ${route} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nfff\r\n{`,
    ],
  ])('%s is answered with 408', async (_, beginning) => {
    const log = vi.spyOn(console, 'error')
    const { socket, answer } = await openSocket(server)
    socket.write(beginning)
    const drip = setInterval(() => socket.write('x'), 200)
    expect(await answer).toMatch(/^HTTP\/1.1 408 /)
    clearInterval(drip)
    await answers()
    expect(log).not.toHaveBeenCalled()
  })

  test('to say anything does not keep others waiting, however many there are', async () => {
    const silent = await Promise.all(Array.from({ length: 500 }, () => openSocket(server)))
    await answers()
    for (const { socket } of silent) socket.destroy()
  })
})

describe('a client that goes away', () => {
  test('in the middle of a stream ends its completions', async () => {
    const controller = new AbortController()
    const stream = await client.completions.create({ ...endless, n: 2, stream: true }, { signal: controller.signal })
    const iterator = stream[Symbol.asyncIterator]()
    await iterator.next()
    expect(await running()).toBe(2)
    controller.abort()
    await until(async () => (await running()) === 0)
    await answers()
  })

  test('before its answer ends its completions, those that wait too', async () => {
    const { socket } = await openSocket(server)
    const body = JSON.stringify({ ...endless, n: 4 })
    socket.write(
      `POST ${route} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    )
    await until(async () => (await running()) === 2 && (await waiting()) === 2)
    socket.destroy()
    await until(async () => (await running()) === 0)
    await answers()
  })
})

test('a full queue is answered with 429, and with when to try again', async () => {
  const controller = new AbortController()
  const many = client.completions.create({ ...endless, n: 3 }, { signal: controller.signal })
  await until(async () => (await waiting()) === 1)
  const refused = await post(JSON.stringify({ ...endless, n: 2 }))
  expect([refused.status, refused.headers.get('Retry-After')]).toEqual([429, '1'])
  expect(await refused.json()).toMatchObject({ error: { code: 'queue_full' } })
  controller.abort()
  await expect(many).rejects.toThrow()
  await until(async () => (await running()) === 0)
  await answers()
})

test('listens to this machine alone', async () => {
  expect(new URL(server.url).hostname).toBe('127.0.0.1')
  const outside = Object.values(os.networkInterfaces())
    .flat()
    .find((address) => address?.family === 'IPv4' && !address.internal)
  if (!outside) return
  await expect(fetch(server.url.replace('127.0.0.1', outside.address))).rejects.toThrow()
})

test('a port that is taken, a host that is none, a model twice and too long a context are refused before anything is served', async () => {
  const port = Number(new URL(server.url).port)
  await expect(serve({ model, port })).rejects.toMatchObject({ code: 'E_CONFIG', details: { field: 'port' } })
  const nowhere = serve({ model, port: 0, host: 'no.such.host.invalid' })
  await expect(nowhere).rejects.toMatchObject({ code: 'E_CONFIG', details: { field: 'host' } })
  const twice = serve({ model, adapter: ['a=x', 'a=y'] })
  await expect(twice).rejects.toMatchObject({ code: 'E_CONFIG', details: { field: 'adapter' } })
  const long = serve({ model, contextLength: 65537, port: 0 })
  await expect(long).rejects.toMatchObject({ code: 'E_CONFIG', details: { field: 'contextLength' } })
  await expect(serve({ model, adapter: ['a=x'], port: 0 })).rejects.toMatchObject({ code: 'E_FILE' })
})

describe('closing', () => {
  test('lets running requests end, and takes no new ones', async () => {
    const closing = await startServer(model, { ...options, shutdownTimeout: 30 })
    const some = { ...endless, max_tokens: 500, stream: true } as const
    const stream = await clientOf(closing).completions.create(some)
    const closed = closing.close()
    await expect(fetch(`${closing.url}/health`)).rejects.toThrow()
    const chunks = await collect(stream)
    expect(chunks.at(-1)!.choices[0]!.finish_reason).toBe('length')
    await closed
  })

  test('ends those that do not end by themselves, and says so', async () => {
    const closing = await startServer(model, { ...options, shutdownTimeout: 1 })
    const whole = clientOf(closing).completions.create(endless)
    const stream = await clientOf(closing).completions.create({ ...endless, stream: true })
    const both = Promise.allSettled([whole, collect(stream)])
    await closing.close()
    expect(await both).toMatchObject([
      { status: 'rejected', reason: { status: 503 } },
      { status: 'rejected', reason: { error: { message: 'the server is shutting down' } } },
    ])
  })
})
