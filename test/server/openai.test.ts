import { type LargeModel, loadModel } from 'loram'
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { adapterFolder, clientOf, collect, metric, startServer, writeEndlessModel } from './support.ts'

const model = writeEndlessModel()
const server = await startServer(model)
const client = clientOf(server)
const prompt = '2 and 3'
const messages = [{ role: 'user' as const, content: prompt }]

interface OpenApiDocument {
  openapi: string
  paths: object
  components: { schemas: { CompletionRequest: { properties: { prompt: { anyOf: object[] } } } } }
}

/** What the API of loram answers, greedily. */
const base = await loadModel(model, { device: 'cpu' })
const tuned = await loadModel(model, { device: 'cpu', adapter: adapterFolder })
const expected = (large: LargeModel, chat = false) => large.complete(prompt, { maxNewTokens: 24, chat })

describe('completions', () => {
  const request = { model: 'base', prompt, max_tokens: 24, temperature: 0 }

  test.each([
    ['base', base],
    ['tuned', tuned],
  ])('of %s are those of the API', async (name, large) => {
    const { text, promptTokens } = await expected(large)
    const answer = await client.completions.create({ ...request, model: name })
    expect(answer).toMatchObject({
      object: 'text_completion',
      model: name,
      choices: [{ index: 0, text, finish_reason: 'length', logprobs: null }],
      usage: { prompt_tokens: promptTokens, completion_tokens: 24, total_tokens: promptTokens + 24 },
    })
  })

  test('come in chunks that make the same text, with their usage at the end', async () => {
    const whole = await client.completions.create(request)
    const stream = await client.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks = await collect(stream)
    expect(chunks.map(({ choices }) => choices[0]?.text ?? '').join('')).toBe(whole.choices[0]!.text)
    expect(chunks.flatMap(({ choices }) => choices[0]?.finish_reason ?? [])).toEqual(['length'])
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: whole.usage })
    expect(chunks.length).toBeGreaterThan(10)
  })

  test('end before a stop text', async () => {
    const { text } = (await client.completions.create(request)).choices[0]!
    const stop = text.slice(9, 11)
    const answer = await client.completions.create({ ...request, stop })
    expect(answer.choices[0]).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finish_reason: 'stop' })
  })

  test('of several prompts and choices come in order, and depend on their seed alone', async () => {
    const create = (body: object) => client.completions.create({ ...request, temperature: 1, seed: 7, ...body })
    const many = await create({ prompt: [prompt, 'and'], n: 2 })
    const one = await create({})
    const second = await create({ seed: 8 })
    const other = await create({ prompt: 'and' })
    expect(many.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3])
    expect(many.choices.map(({ text }) => text).slice(0, 3)).toEqual(
      [one, second, other].map(({ choices }) => choices[0]!.text),
    )
    expect(many.usage!.prompt_tokens).toBe(one.usage!.prompt_tokens + other.usage!.prompt_tokens)
    expect(second.choices[0]!.text).not.toBe(one.choices[0]!.text)
  })

  test('without a seed differ', async () => {
    const create = () => client.completions.create({ ...request, temperature: 1 })
    const [one, other] = [await create(), await create()]
    expect(one.choices[0]!.text).not.toBe(other.choices[0]!.text)
  })

  test('echo the prompt and score all of it but the first token', async () => {
    const scored = { ...request, echo: true, logprobs: 2, max_tokens: 3 }
    const { text, logprobs } = (await client.completions.create(scored)).choices[0]!
    const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs!
    expect(tokens!.slice(0, 4)).toEqual(['<s>', '2', ' ', 'a'])
    expect(text.startsWith(prompt)).toBe(true)
    expect(tokens).toHaveLength(1 + prompt.length + 3)
    expect(text_offset!.slice(0, 3)).toEqual([0, 3, 4])
    expect(token_logprobs![0]).toBeNull()
    // the token that is generated is the likeliest
    for (const i of [-1, -2, -3]) expect(Math.max(...Object.values(top_logprobs!.at(i)!))).toBe(token_logprobs!.at(i))
    const alone = await client.completions.create({ ...scored, max_tokens: 0 })
    expect(alone.choices[0]!.logprobs!.token_logprobs).toEqual(token_logprobs!.slice(0, -3))
    expect(alone.choices[0]!.text).toBe(prompt)
  })

  test('take token ids', async () => {
    const ids = [1, 21, 3, 68, 81, 71, 3, 22] // <s>, and the characters of the prompt
    const one = await client.completions.create({ ...request, prompt: ids })
    const many = await client.completions.create({ ...request, prompt: [ids, ids] })
    const { text } = await expected(base)
    expect([...one.choices, ...many.choices].map((choice) => choice.text)).toEqual([text, text, text])
  })
})

describe('chat completions', () => {
  const request = { model: 'tuned', messages, max_completion_tokens: 24, temperature: 0 }

  test('are those of the API', async () => {
    const { text, promptTokens } = await expected(tuned, true)
    const answer = await client.chat.completions.create(request)
    expect(answer).toMatchObject({
      object: 'chat.completion',
      choices: [{ index: 0, message: { role: 'assistant', content: text }, finish_reason: 'length' }],
      usage: { prompt_tokens: promptTokens, completion_tokens: 24 },
    })
    const parts = [{ role: 'user' as const, content: [{ type: 'text' as const, text: prompt }] }]
    const again = await client.chat.completions.create({ ...request, messages: parts })
    expect(again.choices[0]!.message.content).toBe(text)
  })

  test('come in chunks, of several choices too', async () => {
    const body = { ...request, n: 2, seed: 3, temperature: 1 }
    const whole = await client.chat.completions.create(body)
    const chunks = await collect(await client.chat.completions.create({ ...body, stream: true }))
    expect(chunks[0]!.choices[0]!.delta).toEqual({ role: 'assistant', content: '' })
    const texts = [0, 1].map((index) =>
      chunks
        .flatMap(({ choices }) => choices)
        .filter((choice) => choice.index === index)
        .map(({ delta }) => delta.content ?? '')
        .join(''),
    )
    expect(texts).toEqual(whole.choices.map(({ message }) => message.content))
    expect(texts[0]).not.toBe(texts[1])
  })

  test('have scores where these are asked for', async () => {
    const scored = { ...request, logprobs: true, top_logprobs: 2, max_completion_tokens: 5 }
    const { content } = (await client.chat.completions.create(scored)).choices[0]!.logprobs!
    expect(content).toHaveLength(5)
    for (const { token, logprob, bytes, top_logprobs } of content!) {
      expect(top_logprobs[0]).toMatchObject({ token, logprob })
      expect(Buffer.from(bytes!).toString()).toBe(token)
      expect(top_logprobs[1]!.logprob).toBeLessThan(logprob)
    }
    const plain = await client.chat.completions.create({ ...request, max_tokens: 24, logprobs: null, top_logprobs: 0 })
    expect(plain.choices[0]!.logprobs).toBeNull()
  })
})

test('the models are the base and the adapters', async () => {
  expect((await client.models.list()).data).toMatchObject([
    { id: 'base', object: 'model' },
    { id: 'tuned', object: 'model' },
  ])
})

describe('a request that is refused', () => {
  const create = (body: object) =>
    client.completions.create({ model: 'base', prompt, max_tokens: 1, ...body } as never) as Promise<unknown>

  test.each(['other', '../base', `${adapterFolder}`, 'tuned/../tuned', ''])('names the model %j', async (name) => {
    await expect(create({ model: name })).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
      param: 'model',
    })
    await expect(create({ model: name })).rejects.toBeInstanceOf(OpenAI.NotFoundError)
  })

  const tooLong = 'long '.repeat(1000)
  test.each([
    ['an unknown field', { best_of: 2 }, 'best_of', /best_of/],
    ['a negative temperature', { temperature: -1 }, 'temperature', /temperature/],
    ['a penalty', { presence_penalty: 1 }, 'presence_penalty', /0/],
    ['no prompt', { prompt: [] }, 'prompt', /prompt/],
    ['a token that the model lacks', { prompt: [160] }, 'prompt', /ids below 160/],
    ['a negative token', { prompt: [-1] }, 'prompt.0', /prompt/],
    ['too many new tokens', { max_tokens: 4000 }, 'max_tokens', /2048 tokens together/],
    ['too long a prompt', { prompt: tooLong }, 'max_tokens', /2048 tokens together/],
    ['one among several, in chunks', { prompt: ['fits', tooLong], stream: true }, 'max_tokens', /2048 tokens together/],
    ['more choices than the queue holds', { n: 16, prompt: ['a', 'b', 'c', 'd', 'e'] }, null, /72 completions/],
  ])('has %s', async (_, body, param, message) => {
    const error = (await create(body).catch((reason) => reason)) as InstanceType<typeof OpenAI.APIError>
    expect(error).toBeInstanceOf(OpenAI.BadRequestError)
    expect(error).toMatchObject({ status: 400, type: 'invalid_request_error', param })
    expect(error.message).toMatch(message)
  })

  test.each([
    ['top_logprobs without logprobs', 'top_logprobs', { top_logprobs: 3 }],
    ['two numbers of new tokens', 'max_completion_tokens', { max_tokens: 2, max_completion_tokens: 3 }],
    ['an unknown field inside of another', 'stream_options.usage', { stream_options: { usage: true } }],
  ])('has %s', async (_, param, body) => {
    const asked = client.chat.completions.create({ model: 'base', messages, max_tokens: 2, ...body } as never)
    await expect(asked).rejects.toMatchObject({ status: 400, param })
  })

  test('lacks the API key', async () => {
    const guarded = await startServer(model, { apiKey: 'secret' })
    expect((await fetch(`${guarded.url}/health`)).status).toBe(200)
    for (const key of ['wrong', 'secret2']) {
      await expect(clientOf(guarded, key).models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError)
    }
    expect((await clientOf(guarded, 'secret').models.list()).data).toHaveLength(2)
    await guarded.close()
  })
})

describe('what describes the server', () => {
  test('the OpenAPI document has every route', async () => {
    const document = await (await fetch(`${server.url}/openapi.json`)).json()
    const { openapi, paths, components } = document as OpenApiDocument
    expect(openapi).toBe('3.1.0')
    expect(Object.keys(paths).sort()).toEqual([
      '/health',
      '/metrics',
      '/v1/chat/completions',
      '/v1/completions',
      '/v1/models',
    ])
    expect(components.schemas.CompletionRequest.properties.prompt.anyOf).toHaveLength(4)
  })

  test('metrics count requests and tokens', async () => {
    const ok = 'loram_http_requests_total{route="/v1/completions",status="200"}'
    const tokens = 'loram_completion_tokens_total{model="tuned"}'
    const before = [await metric(server, ok), await metric(server, tokens)] as const
    await client.completions.create({ model: 'tuned', prompt, max_tokens: 5 })
    await client.completions.create({ model: 'tuned', prompt, max_tokens: 5, temperature: -1 }).catch(() => {})
    expect(await metric(server, ok)).toBe(before[0] + 1)
    expect(await metric(server, tokens)).toBe(before[1] + 5)
    expect(await metric(server, 'loram_completions_running')).toBe(0)
  })
})
