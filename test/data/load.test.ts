import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { SeenContents } from '../../src/data/content.ts'
import type { Examples } from '../../src/data/encode.ts'
import { corpusExamples, type LoadOptions, loadExamples } from '../../src/data/index.ts'
import { loadTokenizer, type Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import { byteLevelTokenizer, hasSmolLM2, shared, smolLM2Dir, templates, temporaryDir } from '../tokenizer/tokenizers.ts'

const tokenizer = byteLevelTokenizer()
const chatml = byteLevelTokenizer({ chat_template: templates.chatml, eos_token: '<|im_end|>' })

function write(name: string, content: string | Buffer): string {
  const file = path.join(temporaryDir(), name)
  writeFileSync(file, content)
  return file
}

const lines = (...records: unknown[]) => write('data.jsonl', records.map((record) => JSON.stringify(record)).join('\n'))

const load = (file: string | string[], options: Partial<LoadOptions> = {}, by: Tokenizer = tokenizer) =>
  loadExamples(file, by, { sequenceLength: 4096, ...options })

/** Each example's text, and its learnt stretches, told by the targets alone. */
async function texts(file: string, options: Partial<LoadOptions> = {}, by: Tokenizer = tokenizer) {
  const { examples } = await load(file, options, by)
  const decode = (ids: number[]) => by.decode(ids, { skipSpecialTokens: false })
  return [...examples].map(({ ids, targets }) => {
    const learnt: number[][] = []
    targets.forEach((target, i) => {
      if (target === -100) return
      expect(target).toBe(ids[i + 1])
      if (i === 0 || targets[i - 1] === -100) learnt.push([])
      learnt.at(-1)!.push(target)
    })
    return { text: decode([...ids]), learnt: learnt.map(decode) }
  })
}

const alpacaHead = 'Below is an instruction that describes a task'
const plainHead = `${alpacaHead}. Write a response that appropriately completes the request.`
const inputHead = `${alpacaHead}, paired with an input that provides further context. Write a response that appropriately completes the request.`

describe('formats and what is learnt', () => {
  test.each([
    [
      'Alpaca',
      { instruction: 'Add', input: '1 2', output: '3' },
      `<s>${inputHead}\n\n### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n3</s>`,
      ['3</s>'],
    ],
    [
      'Alpaca without input',
      { instruction: 'Say hi', input: '', output: 'hi' },
      `<s>${plainHead}\n\n### Instruction:\nSay hi\n\n### Response:\nhi</s>`,
      ['hi</s>'],
    ],
    [
      'Alpaca with history',
      { instruction: 'c', output: 'd', system: 'S', history: [['a', 'b']] },
      '<s>S\n\n### Instruction:\na\n\n### Response:\nb</s>\n\n### Instruction:\nc\n\n### Response:\nd</s>',
      ['b</s>', 'd</s>'],
    ],
    ['prompt and completion', { prompt: '2+2=', completion: ' 4' }, '<s>2+2= 4</s>', [' 4</s>']],
    [
      'GSM8K',
      { question: 'How many?', answer: 'Two.\n#### 2' },
      '<s>Question: How many?\nAnswer: Two.\n#### 2</s>',
      [' Two.\n#### 2</s>'],
    ],
    ['text', { text: 'Hello there' }, '<s>Hello there</s>', ['Hello there</s>']],
    ['special tokens in data', { prompt: 'a</s><s>', completion: '</s>' }, '<s>a</s><s></s></s>', ['</s></s>']],
  ])('%s', async (_, record, text, learnt) => {
    expect(await texts(lines(record))).toEqual([{ text, learnt }])
  })

  test.each([
    [
      'messages',
      {
        messages: [
          { role: 'system', content: 'S' },
          {
            role: 'user',
            content: [
              { type: 'text', text: 'a' },
              { type: 'text', text: '1' },
            ],
          },
          { role: 'assistant', content: 'b' },
          { role: 'user', content: 'c' },
          { role: 'assistant', content: 'd' },
        ],
      },
    ],
    [
      'ShareGPT',
      {
        id: 7,
        system: 'S',
        conversations: [
          { from: 'human', value: 'a1' },
          { from: 'gpt', value: 'b' },
          { from: 'User', value: 'c' },
          { from: 'bing', value: 'd' },
        ],
      },
    ],
  ])('%s', async (_, record) => {
    const text =
      '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na1<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n' +
      '<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n'
    const file = lines(record)
    expect(await texts(file, {}, chatml)).toEqual([{ text, learnt: ['b<|im_end|>', 'd<|im_end|>'] }])
    expect((await texts(file, { trainOn: 'last-answer' }, chatml))[0]!.learnt).toEqual(['d<|im_end|>'])
    // the first token is predicted from nothing
    expect((await texts(file, { trainOn: 'all' }, chatml))[0]!.learnt).toEqual([text.slice('<|im_start|>'.length)])
  })

  test('OpenOrca', async () => {
    const [example] = await texts(lines({ id: 1, system_prompt: '', question: 'q', response: 'r' }), {}, chatml)
    expect(example).toEqual({
      text: '<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nr<|im_end|>\n',
      learnt: ['r<|im_end|>'],
    })
  })

  test('a given format decides where keys would not, and others are refused', async () => {
    const file = lines({ prompt: 'p', completion: 'c', text: 'whole' })
    expect((await texts(file))[0]!.text).toBe('<s>pc</s>')
    expect((await texts(file, { format: 'text' }))[0]!.text).toBe('<s>whole</s>')
    await expect(load(file, { format: 'alpaca' })).rejects.toMatchObject({
      code: 'E_DATA',
      details: { line: 1, expected: 'instruction + output', found: 'prompt, completion, text' },
    })
  })

  test('stanford_alpaca has no line feed after Response', async () => {
    const [example] = await texts(lines({ instruction: 'i', output: 'o' }), { responseNewline: false })
    expect(example!.text).toMatch(/### Response:o<\/s>$/)
  })
})

describe('containers', () => {
  const records = [{ text: 'one, [two] {three' }, { text: 'a "quoted\\" \n line' }, { text: 'drei' }]
  const wanted = records.map(({ text }) => `<s>${text}</s>`)
  const jsonl = records.map((record) => JSON.stringify(record))

  test.each([
    ['JSONL', 'data.jsonl', jsonl.join('\n')],
    ['JSONL with CRLF, blank lines and a byte order mark', 'data.jsonl', `\uFEFF${jsonl.join('\r\n\r\n')}\r\n`],
    ['a JSON array', 'data.json', JSON.stringify(records)],
    ['a JSON array over many lines', 'data.json', `\uFEFF\n${JSON.stringify(records, null, 2)}\n`],
    ['gzip', 'data.jsonl.gz', gzipSync(jsonl.join('\n'))],
  ])('%s', async (_, name, content) => {
    expect((await texts(write(name, content))).map(({ text }) => text)).toEqual(wanted)
  })

  test('plain text is one document a file', async () => {
    expect((await texts(write('a.txt', '\uFEFFone\r\ntwo\n'))).map(({ text }) => text)).toEqual(['<s>one\ntwo\n</s>'])
    expect((await texts(write('a.raw', 'one\ntwo'), { format: 'text' }))[0]!.text).toBe('<s>one\ntwo</s>')
  })

  test('directories, patterns and lists', async () => {
    const dir = temporaryDir()
    for (const name of ['b.jsonl', 'a.jsonl', 'c.txt', 'README']) {
      writeFileSync(path.join(dir, name), name === 'c.txt' ? 'c' : JSON.stringify({ text: name }))
    }
    const names = async (source: string | string[]) =>
      [...(await load(source)).examples].map(({ ids }) => tokenizer.decode(ids))
    expect(await names(dir)).toEqual(['a.jsonl', 'b.jsonl', 'c'])
    expect(await names(path.join(dir, '*.jsonl'))).toEqual(['a.jsonl', 'b.jsonl'])
    expect(await names([path.join(dir, 'c.txt'), path.join(dir, 'a*')])).toEqual(['c', 'a.jsonl'])
    await expect(load(path.join(dir, '*.csv'))).rejects.toMatchObject({ code: 'E_DATA', details: { remedy: /./ } })
  })
})

describe('faults', () => {
  const good = '{"text": "fine"}'
  const messages = (...roles: string[]) => JSON.stringify({ messages: roles.map((role) => ({ role, content: 'x' })) })

  test.each([
    ['cut off', '{"text": "abc', { found: /{"text": "abc/ }],
    ['not an object', '["text"]', { found: /an array/ }],
    ['invalid UTF-8', Buffer.from('7b2274657874223a22ff227d', 'hex'), {}],
    ['half a surrogate pair', '{"text": "\\ud800"}', { field: 'text' }],
    ['unknown keys', '{"prompt": "a", "response": "b"}', { found: 'prompt, response' }],
    ['a number for a text', '{"text": 3}', { field: 'text', found: 'a number' }],
    ['null for an answer', '{"instruction": "a", "output": null}', { field: 'output', found: 'null' }],
    ['a bad history', '{"instruction": "a", "output": "b", "history": ["c"]}', { field: 'history' }],
    ['an unknown role', messages('user', 'boss'), { field: 'messages[1].role', found: 'boss' }],
    ['an answer first', messages('assistant', 'user'), { found: 'assistant, user' }],
    ['two turns of one', messages('user', 'user', 'assistant'), { found: 'user, user, assistant' }],
    ['no answer', messages('system', 'user'), {}],
    ['no list of messages', '{"messages": "hi"}', { field: 'messages' }],
    ['a picture', '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', { found: 'image_url' }],
    ['tool calls', '{"messages": [{"role": "assistant", "tool_calls": []}]}', { field: 'messages[0].tool_calls' }],
  ])('a bad line (%s) is named, or skipped and counted', async (_, bad, details) => {
    const file = write(
      'data.jsonl',
      Buffer.concat([`${good}\n\n`, bad, `\n${good}\n`].map((part) => Buffer.from(part))),
    )
    const matching = Object.fromEntries(
      Object.entries(details).map(([key, value]) => [
        key,
        value instanceof RegExp ? expect.stringMatching(value) : value,
      ]),
    )
    await expect(load(file)).rejects.toMatchObject({
      code: 'E_DATA',
      message: expect.stringContaining(`${file}:3`),
      details: { file, line: 3, remedy: expect.any(String), ...matching },
    })
    expect((await load(file, { onBadLine: 'skip' })).statistics).toMatchObject({ examples: 2, badLines: 1 })
  })

  test('only the first 80 characters of a bad line are shown', async () => {
    await expect(load(write('data.jsonl', `{"text": ${'x'.repeat(1000)}`))).rejects.toMatchObject({
      details: { found: expect.stringMatching(/^.{80} \(/) },
    })
  })

  test.each([
    ['empty', ''],
    ['blank lines only', '\n \r\n\n'],
    ['an empty array', ' [ ] '],
  ])('a file without records (%s) is refused', async (_, content) => {
    await expect(load(write('data.json', content))).rejects.toMatchObject({ code: 'E_DATA', message: /is empty/ })
  })

  test.each([
    ['missing', () => path.join(temporaryDir(), 'none.jsonl')],
    ['an array that is cut off', () => write('data.json', `[${good}, `)],
    ['gzip that is cut off', () => write('data.jsonl.gz', gzipSync(good.repeat(9)).subarray(0, 30))],
  ])('a file that is not whole (%s) is refused, also where bad lines are skipped', async (_, file) => {
    await expect(load(file(), { onBadLine: 'skip' })).rejects.toMatchObject({
      code: 'E_DATA',
      message: /cannot be read/,
    })
  })

  test('the line of a bad element of an array', async () => {
    const file = write('data.json', `[\n${good},\n\n  {"text": oops},\n${good}]`)
    await expect(load(file)).rejects.toMatchObject({ details: { line: 4 } })
    expect((await load(file, { onBadLine: 'skip' })).statistics).toMatchObject({ examples: 2, badLines: 1 })
  })

  test('a line beyond 64 MiB is refused without being held, and the rest is read', async () => {
    const file = write(
      'data.jsonl',
      Buffer.concat([Buffer.from(`${good}\n`), Buffer.alloc(200 * 2 ** 20, 0x20), Buffer.from(`\n${good}`)]),
    )
    const before = process.memoryUsage.rss()
    expect((await load(file, { onBadLine: 'skip' })).statistics).toMatchObject({ examples: 2, badLines: 1 })
    expect(process.memoryUsage.rss() - before).toBeLessThan(150 * 2 ** 20)
    await expect(load(file)).rejects.toMatchObject({ code: 'E_DATA', details: { line: 2 } })
  })

  test('a conversation that the template refuses is named', async () => {
    const strict = byteLevelTokenizer({ chat_template: templates.llama2 })
    const file = write(
      'data.jsonl',
      `${messages('user', 'assistant')}\n${messages('user', 'assistant', 'tool', 'assistant')}`,
    )
    await expect(load(file, {}, strict)).rejects.toMatchObject({
      code: 'E_TEMPLATE',
      details: { file, line: 2, field: 'chat_template, line 1', found: /alternate/ },
    })
    expect((await load(file, { onBadLine: 'skip' }, strict)).statistics).toMatchObject({ examples: 1, badLines: 1 })
  })
})

describe('lengths and statistics', () => {
  test('truncation keeps the start, and what then teaches nothing is dropped', async () => {
    const file = lines(
      { prompt: 'ab', completion: 'cdefgh' },
      { prompt: 'abcdefgh', completion: 'i' },
      { prompt: 'a', completion: 'b' },
    )
    const { examples, statistics } = await load(file, { sequenceLength: 5 })
    expect([...examples].map(({ ids }) => tokenizer.decode(ids, { skipSpecialTokens: false }))).toEqual([
      '<s>abcd',
      '<s>ab</s>',
    ])
    expect(statistics).toEqual({
      ...{ examples: 2, tokens: 9, targets: 4, truncated: 1, truncatedTokens: 5 },
      ...{ empty: 0, masked: 1, duplicates: 0, held: 0, badLines: 0 },
    })
  })

  test('nothing to learn at all is an error before any training', async () => {
    await expect(load(lines({ prompt: 'abcdefgh', completion: 'i' }), { sequenceLength: 4 })).rejects.toMatchObject({
      code: 'E_DATA',
      message: /leaves nothing to learn/,
    })
    await expect(load(lines({ odd: 1 }), { onBadLine: 'skip' })).rejects.toMatchObject({ message: /1 bad lines/ })
  })

  test('running text is cut into full sequences', async () => {
    const file = lines({ text: 'abcde' }, { text: 'fg' })
    const { examples, statistics } = await corpusExamples(file, tokenizer, 4)
    const rows = [...examples].map(({ ids }) => tokenizer.decode(ids, { skipSpecialTokens: false }))
    expect(rows).toEqual(['<s>abc', 'de</s><s>', 'fg</s>'])
    expect(statistics).toMatchObject({ examples: 3, tokens: 11, targets: 8 })
    await expect(corpusExamples(lines({ prompt: 'a', completion: 'b' }), tokenizer, 4)).rejects.toMatchObject({
      code: 'E_DATA',
    })
  })
})

const gsm8k = path.join(shared, 'data/gsm8k/test.jsonl')
const codeAlpaca = path.join(shared, 'data/code-alpaca-1k.json')

describe.skipIf(!hasSmolLM2 || !existsSync(gsm8k))('real data and SmolLM2 (needs ../shared)', () => {
  let smol: Tokenizer
  beforeAll(() => {
    smol = loadTokenizer(smolLM2Dir())
  })

  test('GSM8K', async () => {
    const { examples, statistics } = await loadExamples(gsm8k, smol, { sequenceLength: 1024 })
    expect(statistics).toMatchObject({ examples: 1319, masked: 0, truncated: 0 })
    const { ids, targets } = examples.at(0)
    expect(smol.decode(ids)).toMatch(/^Question: Janet’s ducks lay 16 eggs.*\nAnswer: Janet sells.*#### 18$/s)
    const learnt = targets.filter((target) => target !== -100)
    expect(smol.decode(learnt, { skipSpecialTokens: false })).toMatch(/^ Janet sells.*#### 18<\|im_end\|>$/s)
  })

  test('Code Alpaca, an array of 1000 records', async () => {
    const { examples, statistics } = await loadExamples(codeAlpaca, smol, { sequenceLength: 512 })
    expect(statistics).toMatchObject({ examples: 1000, badLines: 0 })
    expect(smol.decode(examples.at(0).ids)).toBe(
      `${inputHead}\n\n### Instruction:\nWhat are the distinct values from the given list?\n\n### Input:\n` +
        'dataList = [3, 9, 3, 5, 7, 9, 5]\n\n### Response:\nThe distinct values from the given list are 3, 5, 7 and 9.',
    )
  })

  test('its own chat template', async () => {
    const file = lines({
      messages: [
        { role: 'user', content: 'Hi' },
        { role: 'assistant', content: 'Hello!' },
      ],
    })
    expect(await texts(file, {}, smol)).toEqual([
      {
        text: '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n',
        learnt: ['Hello!<|im_end|>'],
      },
    ])
  })
})

const parquet = (name: string) => fileURLToPath(new URL(`../fixtures/parquet/${name}.parquet`, import.meta.url))

// written by pyarrow 26 in row groups of three
describe('Parquet', () => {
  test.each(['none', 'snappy', 'gzip', 'brotli', 'zstd', 'lz4'])('compressed by %s', async (name) => {
    const wanted = Array.from({ length: 7 }, (_, i) => ({
      text: `<s>${i} + ${i} = ${2 * i}</s>`,
      learnt: [`${2 * i}</s>`],
    }))
    expect(await texts(parquet(name))).toEqual(wanted)
  })

  test('conversations; columns and fields that are null are absent', async () => {
    expect((await texts(parquet('messages'), {}, chatml)).map(({ learnt }) => learnt)).toEqual([
      ['d<|im_end|>'],
      ['r<|im_end|>'],
    ])
  })

  test('a bad row is named, or skipped and counted', async () => {
    const file = parquet('bad-row')
    await expect(load(file)).rejects.toMatchObject({
      code: 'E_DATA',
      message: expect.stringContaining(`${file}:2`),
      details: { file, line: 2 },
    })
    expect((await load(file, { onBadLine: 'skip' })).statistics).toMatchObject({ examples: 2, badLines: 1 })
  })

  test('a file without rows is refused', async () => {
    await expect(load(parquet('empty'))).rejects.toMatchObject({ code: 'E_DATA', message: /is empty/ })
  })

  const whole = readFileSync(parquet('zstd'))
  test.each(Array.from({ length: 16 }, (_, i) => [Math.floor((i * whole.length) / 16)]))(
    'cut to %d bytes',
    async (length) => {
      const file = write('cut.parquet', whole.subarray(0, length))
      await expect(load(file)).rejects.toMatchObject({ code: 'E_DATA', details: { file } })
    },
  )

  test('no damaged byte does more than an error about data', async () => {
    for (let at = 4; at < whole.length; at += 7) {
      const bytes = Buffer.from(whole)
      bytes[at]! ^= 0xff
      const outcome = await load(write('bad.parquet', bytes)).then(
        (dataset) => dataset.close(),
        (error) => error,
      )
      if (outcome !== undefined) expect(outcome).toMatchObject({ code: 'E_DATA' })
    }
  })
})

describe('duplicates', () => {
  const file = () =>
    lines(
      { prompt: 'one', completion: 'two' },
      { prompt: ' one', completion: 'two\n' },
      { prompt: 'one', completion: 'three' },
      { prompt: 'o', completion: 'ne two' },
      { instruction: 'one', output: 'two' },
    )

  test('the first of several that say the same stays', async () => {
    const { statistics, examples } = await load(file(), { deduplicate: true })
    expect(statistics).toMatchObject({ examples: 4, duplicates: 1 })
    expect(tokenizer.decode(examples.at(0).ids)).toBe('onetwo')
    expect((await load(file())).statistics).toMatchObject({ examples: 5, duplicates: 0 })
  })

  test('among many, as a Set tells them', () => {
    fc.assert(
      fc.property(fc.array(fc.bigInt({ min: 0n, max: 5000n }), { maxLength: 6000, minLength: 3000 }), (values) => {
        const [seen, set] = [new SeenContents(), new Set<bigint>()]
        for (const value of values) {
          const content = Buffer.alloc(8)
          content.writeBigUInt64BE(value + 1n)
          expect(seen.add(content)).toBe(!set.has(value))
          set.add(value)
        }
      }),
      { numRuns: 3 },
    )
  })
})

describe('the held-out split', () => {
  const records = Array.from({ length: 400 }, (_, i) => ({ prompt: `question ${i}`, completion: `answer ${i % 7}` }))
  const questions = (examples: Examples) =>
    Array.from(examples, ({ ids }) => /\d+(?=answer)/.exec(tokenizer.decode(ids))![0])

  test('is the same questions wherever they stand, and about the part that is asked for', async () => {
    const { held, examples, statistics } = await load(lines(...records), { evalSplit: 0.2 })
    expect(examples.length + held.length).toBe(400)
    expect(statistics).toMatchObject({ examples: 400, held: held.length })
    // 400 draws at 0.2: a standard deviation is 8
    expect(Math.abs(held.length - 80)).toBeLessThan(40)
    const moved = await load(lines(...records.toReversed(), { text: 'more' }), { evalSplit: 0.2 })
    expect(new Set(questions(moved.held))).toEqual(new Set(questions(held)))
    const larger = await load(lines(...records), { evalSplit: 0.4 })
    expect(questions(larger.held)).toEqual(expect.arrayContaining(questions(held)))
  })

  test('keeps all answers to a question on one side', async () => {
    const twice = records.flatMap((record) => [record, { ...record, completion: 'answer other' }])
    const { held, examples } = await load(lines(...twice), { evalSplit: 0.5 })
    const learnt = new Set(questions(examples))
    expect(questions(held).filter((question) => learnt.has(question))).toEqual([])
  })

  test('splits running text by the text', async () => {
    const { held } = await load(lines(...records.map(({ prompt }) => ({ text: prompt }))), { evalSplit: 0.5 })
    expect(Math.abs(held.length - 200)).toBeLessThan(50)
  })
})

test('empty answers are counted', async () => {
  const { statistics } = await load(lines({ prompt: 'a', completion: ' ' }, { prompt: 'b', completion: 'c' }))
  expect(statistics).toMatchObject({ examples: 2, empty: 1 })
})
