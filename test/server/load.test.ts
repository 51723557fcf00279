import { expect, test } from 'vitest'
import { clientOf, metric, startServer, writeEndlessModel } from './support.ts'

const clients = 40
const requestsPerClient = 4

test('many clients at once all get the answers that they get alone', async () => {
  const server = await startServer(writeEndlessModel(), { maxSequences: 8, maxQueue: clients })
  const client = clientOf(server)
  const requests = Array.from({ length: 12 }, (_, i) => ({
    model: i % 3 === 0 ? 'base' : 'tuned',
    prompt: 'and '.repeat(1 + ((5 * i) % 11)),
    max_tokens: 8 + ((7 * i) % 25),
    temperature: i % 2,
    seed: i,
  }))
  const complete = async (i: number) =>
    (await client.completions.create(requests[i % requests.length]!)).choices[0]!.text
  const alone: string[] = []
  for (const i of requests.keys()) alone.push(await complete(i))

  const together = await Promise.all(
    Array.from({ length: clients }, async (_, c) => {
      const texts: string[] = []
      for (let r = 0; r < requestsPerClient; r++) texts.push(await complete(c + r))
      return texts
    }),
  )
  expect(together).toEqual(
    Array.from({ length: clients }, (_, c) =>
      Array.from({ length: requestsPerClient }, (_, r) => alone[(c + r) % requests.length]!),
    ),
  )
  const answered = await metric(server, 'loram_http_requests_total{route="/v1/completions",status="200"}')
  expect(answered).toBe(requests.length + clients * requestsPerClient)
})
