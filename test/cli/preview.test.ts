import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { showPreview } from '../../src/cli/commands/data.ts'
import { noStatistics } from '../../src/data/statistics.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { byteLevelJson, templates, writeTokenizer } from '../tokenizer/tokenizers.ts'
import { loram, loramJson } from './support.ts'

const model = writeTokenizer({
  'tokenizer.json': byteLevelJson,
  'tokenizer_config.json': { bos_token: '<s>', eos_token: '<|im_end|>', chat_template: templates.chatml },
})
const file = path.join(scratchFolder(), 'chat.jsonl')
const turn = (role: string, content: string) => ({ role, content })
const chat = [turn('user', 'Hello'), turn('assistant', 'ü'), turn('user', '?'), turn('assistant', 'Well')]
const long = [turn('user', 'Hello '.repeat(40)), turn('assistant', 'never seen')]
const records = [chat, long, chat].map((messages) => JSON.stringify({ messages }))
writeFileSync(file, [...records, 'no record'].join('\n'))
const args = ['data', 'preview', '--model', model, '--data', file, '--sequence-length', '64', '--on-bad-line', 'skip']

test('shows examples with what is learnt between marks, and counts', async () => {
  const { exitCode, stdout } = await loram(...args, '--deduplicate', '--samples', '1')
  expect(exitCode).toBe(0)
  expect(stdout).toMatch(/^example 1: 7 of \d+ tokens are learnt$/m)
  expect(stdout).toContain(
    '<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n⟦ü<|im_end|>⟧\n' +
      '<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n⟦Well<|im_end|>⟧\n',
  )
  expect(stdout).not.toContain('example 2')
  for (const line of ['examples    1', 'all masked  1 left out', 'duplicates  1 left out', 'bad lines   1 skipped'])
    expect(stdout).toContain(line)
})

test('gives the same to programs', async () => {
  const { statistics, samples } = await loramJson(...args)
  expect(statistics).toMatchObject({ examples: 2, masked: 1, duplicates: 0, badLines: 1 })
  expect(samples).toHaveLength(2)
})

test('a bad line is an error with its place', async () => {
  const { exitCode, stderr } = await loram(...args.slice(0, -2))
  expect(exitCode).toBe(3)
  expect(stderr).toContain(`${file}:4 is not a record`)
})

const sample = {
  ...{ tokens: 3, targets: 1 },
  pieces: [
    { text: 'a\u001b[2J\n', learnt: false },
    { text: 'b\u0085', learnt: true },
  ],
}

test('on a terminal what is learnt is green, and data cannot steer it', () => {
  const shown = showPreview({ statistics: noStatistics, samples: [sample] }, true)
  expect(shown).toContain('a␛[2J\n\u001b[32mb␡\u001b[39m')
})
