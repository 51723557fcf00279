import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadModel } from 'loram'
import { describe, expect, test } from 'vitest'
import { scratchFolder } from '../formats/scratch.ts'

const python = process.env.LORAM_PEER_PYTHON
const script = fileURLToPath(new URL('lmEval.py', import.meta.url))
const reason = 'LORAM_PEER_PYTHON names no Python with lm_eval'
const linesOf = (file: string) => readFileSync(file, 'utf8').trim().split('\n')

describe.skipIf(!python)(`lm-evaluation-harness gives the same scores (skipped: ${python ? '' : reason})`, () => {
  const dir = scratchFolder()
  const at = (name: string) => path.join(dir, name)
  const [questions, choices, predictions] = [at('questions.jsonl'), at('choices.jsonl'), at('predictions.jsonl')]
  const records = linesOf('demo/data/test.jsonl')
    .slice(0, 16)
    .map((line) => JSON.parse(line) as { prompt: string; completion: string })

  test('of choices by likelihood, and of generated answers', async () => {
    writeFileSync(questions, records.map((record) => JSON.stringify(record)).join('\n'))
    const withChoices = records.map(({ prompt, completion }, i) => {
      const others = [3, 7].map((distance) => records[(i + distance) % records.length]!.completion)
      const answer = i % 3
      return JSON.stringify({ prompt: prompt.trim(), choices: others.toSpliced(answer, 0, completion), answer })
    })
    writeFileSync(choices, withChoices.join('\n'))
    const env = { ...process.env, HF_DATASETS_OFFLINE: '1', HF_HUB_OFFLINE: '1' }
    const output = execFileSync(python!, [script, 'demo/model', choices, questions, '2'], {
      encoding: 'utf8',
      env,
      stdio: ['ignore', 'pipe', 'ignore'], // it shows its progress on stderr
    })
    const theirs = JSON.parse(output.trim().split('\n').at(-1)!)

    const model = await loadModel('demo/model', { device: 'cpu' })
    const shots = { shots: choices, shotCount: 2, predictions }
    const { accuracy, normalizedAccuracy, standardError } = await model.evaluate({
      data: choices,
      task: { kind: 'multiple-choice', ...shots },
    })
    expect({ accuracy, normalizedAccuracy }).toEqual({
      accuracy: theirs.accuracy,
      normalizedAccuracy: theirs.normalizedAccuracy,
    })
    expect(standardError).toBeCloseTo(theirs.standardError, 12)
    const losses = linesOf(predictions).map((line) => JSON.parse(line).losses as number[])
    for (const [i, loss] of losses.flat().entries()) expect(loss).toBeCloseTo(theirs.losses.flat()[i], 3)

    const exact = await model.evaluate({
      data: questions,
      task: { kind: 'exact-match', stop: ['\n'], maxNewTokens: 12, predictions },
    })
    await model.close()
    expect(exact.accuracy).toBe(theirs.exactMatch)
    expect(linesOf(predictions).map((line) => JSON.parse(line).generated)).toEqual(theirs.generated)
  }, 300_000)
})
