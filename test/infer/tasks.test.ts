import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { ConfigError, DataError } from '../../src/errors.ts'
import { generateDefaults, generateText } from '../../src/infer/generate.ts'
import { type LoadedModel, loadModelFolder } from '../../src/infer/loadedModel.ts'
import { exampleLosses } from '../../src/infer/perplexity.ts'
import { extract } from '../../src/infer/tasks/exactMatch.ts'
import { scoreTask } from '../../src/infer/tasks/index.ts'
import { continuation } from '../../src/infer/tasks/multipleChoice.ts'
import type { TaskOptions } from '../../src/infer/tasks/task.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { writeTinyModel } from '../cli/support.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { forwardLogits } from '../model/support.ts'

const dir = scratchFolder()
let loaded: LoadedModel
let demo: LoadedModel
beforeAll(() => {
  loaded = loadModelFolder({
    model: writeTinyModel(path.join(dir, 'model')),
    quantize: 'none',
    quantizeTables: false,
    device: 'cpu',
  })
  demo = loadModelFolder({ model: 'demo/model', quantize: 'none', quantizeTables: false, device: 'cpu' })
})

function write(name: string, records: object[]): string {
  const file = path.join(dir, name)
  writeFileSync(file, records.map((record) => JSON.stringify(record)).join('\n'))
  return file
}

const score = (model: LoadedModel, data: string, task: TaskOptions, limit?: number) =>
  scoreTask(model, task, { data, limit, format: 'auto', sequenceLength: 512, microBatchSize: 4 }, neverAborted)

test.each([
  ['a = 3, so it is 4\n#### 1,234.', '#### (\\S+)', '1234'],
  ['it costs $12.50', '\\$[\\d.]+', '12.5'],
  [' Paris ', undefined, 'Paris'],
  ['nothing here', '#### (.*)', undefined],
  ['007', undefined, '7'],
  ['7.x', undefined, '7.x'],
])('the answer in %j by %s is %s', (text, pattern, answer) => {
  expect(extract(text, pattern === undefined ? undefined : new RegExp(pattern))).toBe(answer)
})

describe('exact match', () => {
  test('counts generated answers, and writes what was generated', async () => {
    const predictions = path.join(dir, 'predictions.jsonl')
    const result = await score(demo, 'demo/data/test.jsonl', { kind: 'exact-match', maxNewTokens: 12, predictions }, 12)
    const lines = readFileSync(predictions, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(lines).toHaveLength(12)
    expect(result).toMatchObject({ kind: 'exact-match', questions: 12 })
    expect(result.accuracy).toBe(lines.filter(({ right }) => right).length / 12)
    for (const { right, found, expected, generated } of lines) {
      expect(right).toBe(found === expected)
      expect(extract(generated, undefined)).toBe(found)
    }
  })

  test('is right where the reference is what the model says', async () => {
    const predictions = path.join(dir, 'said.jsonl')
    const records = [
      { prompt: 'how much is 3+4 ? ', completion: 'x' },
      { prompt: 'move ab on by one letter. ', completion: 'x' },
    ]
    await score(demo, write('asked.jsonl', records), { kind: 'exact-match', maxNewTokens: 6, predictions })
    const said = readFileSync(predictions, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).generated as string)
    const agreed = records.map(({ prompt }, i) => ({ prompt, completion: said[i]! }))
    const result = await score(demo, write('agreed.jsonl', agreed), { kind: 'exact-match', maxNewTokens: 6 })
    expect(result).toEqual({ kind: 'exact-match', questions: 2, accuracy: 1, standardError: 0 })
  })

  test.each([1, 5])('is the same with %d answers generated at once', async (microBatchSize) => {
    const predictions = path.join(dir, `at once ${microBatchSize}.jsonl`)
    const task = { kind: 'exact-match' as const, maxNewTokens: 12, stop: ['a'], predictions }
    const options = { data: 'demo/data/test.jsonl', limit: 12, format: 'auto', sequenceLength: 512 } as const
    await scoreTask(demo, task, { ...options, microBatchSize }, neverAborted)
    const generated = readFileSync(predictions, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).generated)
    const tokenizer = demo.tokenizer
    const alone = readFileSync('demo/data/test.jsonl', 'utf8')
      .split('\n')
      .slice(0, 12)
      .map((line) => {
        const ids = [tokenizer.bosId!, ...tokenizer.encode(JSON.parse(line).prompt)]
        return Array.from(generateText(demo.model, tokenizer, ids, { ...generateDefaults, ...task })).join('')
      })
    expect(generated).toEqual(alone)
  })

  test('puts solved questions before each', async () => {
    const shots = write('shots.jsonl', [
      { prompt: 'a', completion: 'b' },
      { prompt: 'c', completion: 'd' },
    ])
    const data = write('one.jsonl', [{ prompt: 'e', completion: 'f' }])
    const task = { kind: 'exact-match', maxNewTokens: 4, shots } as const
    const with2 = path.join(dir, 'with2.jsonl')
    const whole = path.join(dir, 'whole.jsonl')
    await score(loaded, data, { ...task, predictions: with2 })
    const spelt = write('spelt.jsonl', [{ prompt: 'ab\n\ncd\n\ne', completion: 'f' }])
    await score(loaded, spelt, { kind: 'exact-match', maxNewTokens: 4, predictions: whole })
    const generated = (file: string) => JSON.parse(readFileSync(file, 'utf8')).generated
    expect(generated(with2)).toBe(generated(whole))
  })

  test('refuses questions that are too long, and references without an answer', async () => {
    const data = write('long.jsonl', [{ prompt: 'e'.repeat(600), completion: 'f' }])
    await expect(score(loaded, data, { kind: 'exact-match' })).rejects.toThrow(/too long[\s\S]*sequenceLength/)
    const plain = write('plain.jsonl', [{ prompt: 'e', completion: 'f' }])
    const task = { kind: 'exact-match', answer: '#### (.*)', maxNewTokens: 2 } as const
    await expect(score(loaded, plain, task)).rejects.toThrow(DataError)
  })
})

describe('multiple choice', () => {
  const question = { prompt: 'The colour of the sky', choices: ['is red', 'is blue', 'is'], answer: 1 }

  test('the loss of a choice is that of its tokens, by the logits', () => {
    const examples = question.choices.map((choice) => continuation(loaded.tokenizer, question.prompt, choice))
    const losses = exampleLosses(loaded.model, examples, { microBatchSize: 2, sequenceLength: 64 }, neverAborted)
    const vocab = loaded.model.config.vocabSize
    const wanted = examples.map(({ ids, targets }) => {
      const positions = Int32Array.from(ids.keys())
      const logits = forwardLogits(loaded.model, { ids, targets, positions, bounds: Int32Array.of(0, ids.length) })
      return [...targets].reduce((sum, target, row) => {
        if (target < 0) return sum
        const of = logits.subarray(row * vocab, (row + 1) * vocab)
        return sum + Math.log(of.reduce((total, logit) => total + Math.exp(logit), 0)) - of[target]!
      }, 0)
    })
    for (const [i, loss] of losses.entries()) expect(loss).toBeCloseTo(wanted[i]!, 4)
    // Every choice is one token longer than its text: the space before it.
    expect(examples.map(({ targets }) => targets.filter((target) => target >= 0).length)).toEqual([7, 8, 3])
  })

  test('takes the likeliest, also by length', async () => {
    const predictions = path.join(dir, 'choices.jsonl')
    const records = [0, 1, 2].map((answer) => ({ ...question, answer }))
    const data = write('choices-in.jsonl', records)
    const result = await score(loaded, data, { kind: 'multiple-choice', predictions })
    // One of three identical questions has each choice as its answer.
    expect(result).toMatchObject({ questions: 3, accuracy: 1 / 3, normalizedAccuracy: 1 / 3 })
    expect(result.standardError).toBeCloseTo(Math.sqrt(2 / 9 / 2), 12)
    const { losses, chosen } = JSON.parse(readFileSync(predictions, 'utf8').split('\n')[0]!)
    expect(losses[chosen]).toBe(Math.min(...losses))
  })

  test('refuses a question that is too long, by file and line', async () => {
    const data = write('long-choices.jsonl', [question, { ...question, choices: ['a', 'b'.repeat(600)] }])
    const asked = score(loaded, data, { kind: 'multiple-choice' })
    await expect(asked).rejects.toMatchObject({ details: { file: data, line: 2, field: 'sequenceLength' } })
  })

  test.each([
    [{ prompt: 'x', choices: ['a'], answer: 0 }, /two texts or more/],
    [{ prompt: 'x', choices: ['a', 'b'], answer: 2 }, /from 0 to 1/],
    [{ choices: ['a', 'b'], answer: 1 }, /prompt/],
  ])('refuses %j', async (record, message) => {
    await expect(score(loaded, write('bad.jsonl', [record]), { kind: 'multiple-choice' })).rejects.toThrow(message)
  })
})

describe('code', () => {
  const task = { kind: 'code', runCode: true, maxNewTokens: 1 } as const
  // The body is given, so that the tests decide: whatever the model adds comes after a comment sign.
  const record = (body: string, test: string) => ({
    prompt: `def f(x):\n    ${body} # `,
    test: `def check(g):\n    ${test}`,
    entry_point: 'f',
  })

  test('is right where the tests pass within the limits', async () => {
    const data = write('code.jsonl', [
      record('return x + 1', 'assert g(1) == 2'),
      record('return x', 'assert g(1) == 2'),
      record('return bytearray(2 ** 31)', 'g(1)'),
      record('import os; return os.environ.get("HOME")', 'assert g(1) is None'),
    ])
    const predictions = path.join(dir, 'code-out.jsonl')
    await score(loaded, data, { ...task, predictions })
    const right = readFileSync(predictions, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).right)
    expect(right).toEqual([true, false, false, true])
  })

  test('runs nothing without being told to', async () => {
    await expect(score(loaded, write('x.jsonl', [record('pass', 'pass')]), { kind: 'code' })).rejects.toThrow(/runCode/)
  })
})

test.each([
  [{ kind: 'multiple-choice', answer: 'x' }, 'task.answer'],
  [{ kind: 'exact-match', runCode: true }, 'task.runCode'],
  [{ kind: 'exact-match', shotCount: 2 }, 'task.shotCount'],
] as [TaskOptions, string][])('%j is refused: %s does not belong there', async (task, field) => {
  const refused = score(loaded, write('y.jsonl', [{ prompt: 'a', completion: 'b' }]), task)
  await expect(refused).rejects.toSatisfy((error) => error instanceof ConfigError && error.details.field === field)
})
