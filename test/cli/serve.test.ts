import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { until, writeEndlessModel } from '../server/support.ts'
import { lastLine, type Outcome, start } from './support.ts'

const model = writeEndlessModel()

describe('serve', () => {
  const flags = ['serve', '--model', model, '--port', '0', '--json', '--device', 'cpu']

  test('says where it listens, and ends with 0 after SIGTERM, when running requests have their answers', async () => {
    const command = start([...flags, '--context-length', '500'])
    await command.seen('"url"')
    const { url } = lastLine(command.output.stdout) as { url: string }
    const answer = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ model: path.basename(model), prompt: 'a', max_tokens: 400, stream: true }),
    })
    command.process.kill('SIGTERM')
    expect(await answer.text()).toMatch(/"finish_reason":"length"[\s\S]*\[DONE\]\n\n$/)
    const { exitCode, stdout, stderr } = await command.finished
    expect(exitCode).toBe(0)
    expect(lastLine(stdout)).toEqual({ url })
    expect(stderr).toContain(`${url} serves base with a context of 500 tokens\n`)
  })
})

describe('chat', () => {
  const flags = ['--model', model, '--device', 'cpu', '--max-new-tokens', '12']

  test('answers a message a line, each after all before it', async () => {
    const { stdout, exitCode } = await converse('first\n\nsecond\n/exit\nnot read\n', '--system', 'be short', '--json')
    expect(exitCode).toBe(0)
    const { messages } = lastLine(stdout) as { messages: { role: string; content: string }[] }
    expect(messages.map(({ role }) => role)).toEqual(['system', 'user', 'assistant', 'user', 'assistant'])
    const plain = await converse('first\nsecond', '--system', 'be short')
    expect(plain.stdout).toBe(`${messages[2]!.content}\n${messages[4]!.content}\n\n`)
  })

  test('answers by the demo model, and says why a message has no answer before it goes on', async () => {
    const input = ['write kdaf backwards.', 'x'.repeat(600), 'write kdaf backwards.'].join('\n')
    const { stdout, stderr, exitCode } = await chat(['--model', 'demo/model', '--device', 'cpu', '--json'], input)
    expect(exitCode).toBe(0)
    const { messages } = lastLine(stdout) as { messages: { role: string; content: string }[] }
    expect(messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'user', 'assistant'])
    expect(messages.filter(({ content }) => content.startsWith('x'))).toEqual([])
    expect(stderr).toMatch(/^\[E_CONFIG\] the prompt and the new tokens do not fit the model\n/)
  })

  test('stops an answer at SIGINT, and goes on', async () => {
    const command = start(['chat', ...flags, '--max-new-tokens', '60000'])
    command.process.stdin!.write('first\n')
    await until(() => command.output.stdout !== '')
    command.process.kill('SIGINT')
    await command.seen('(interrupted)')
    command.process.stdin!.end('/exit\n')
    expect((await command.finished).exitCode).toBe(0)
  })

  const converse = (input: string, ...more: string[]) => chat([...flags, ...more], input)

  function chat(more: readonly string[], input: string): Promise<Outcome> {
    const command = start(['chat', ...more])
    command.process.stdin!.end(input)
    return command.finished
  }
})
