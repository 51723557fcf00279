import { execFile } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { evaluate, loadModel } from 'loram'
import { describe, expect, test } from 'vitest'
import { scratchFolder } from '../formats/scratch.ts'
import { startServer } from '../server/support.ts'

const python = process.env.LORAM_PEER_PYTHON
const reason = 'LORAM_PEER_PYTHON names no Python with lm_eval and openai'
const run = promisify(execFile)

describe.skipIf(!python)(`lm-eval and openai for Python (skipped: ${python ? '' : reason})`, () => {
  const dir = scratchFolder()
  const model = path.resolve('demo/model')
  // lm-eval counts blanks at the end of a prompt to the answer
  const records = readFileSync('demo/data/test.jsonl', 'utf8')
    .split('\n')
    .slice(0, 40)
    .map((line) => JSON.parse(line) as { prompt: string; completion: string })
    .map(({ prompt, completion }) => ({ prompt: prompt.trimEnd(), completion: ` ${completion}` }))
  const data = path.join(dir, 'data.jsonl')
  writeFileSync(data, records.map((record) => JSON.stringify(record)).join('\n'))

  test('lm-eval has the loss that evaluate has', { timeout: 180_000 }, async () => {
    const { url, close } = await startServer(model, { adapter: [] })
    const task = {
      task: 'answers',
      dataset_path: 'json',
      dataset_kwargs: { data_files: { test: data } },
      test_split: 'test',
      output_type: 'loglikelihood',
      doc_to_text: '{{prompt}}',
      doc_to_target: '{{completion}}</s>',
      target_delimiter: '',
      metric_list: [{ metric: 'perplexity', aggregation: 'perplexity', higher_is_better: false }],
    }
    writeFileSync(path.join(dir, 'task.yaml'), JSON.stringify(task))
    const args = `model=model,base_url=${url}/v1/completions,tokenizer=${model},add_bos_token=True,num_concurrent=4,max_length=512`
    const evaluation = [
      '-m',
      'lm_eval',
      'run',
      '--model',
      'local-completions',
      '--model_args',
      args,
      '--tasks',
      'answers',
    ]
    const files = ['--include_path', dir, '--output_path', path.join(dir, 'out')]
    const env = { ...process.env, HF_HUB_OFFLINE: '1', HF_DATASETS_OFFLINE: '1' }
    await run(python!, [...evaluation, ...files], { env })
    await close()
    const [result] = readdirSync(path.join(dir, 'out'), { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.json'),
    )
    const { results } = JSON.parse(readFileSync(path.join(dir, 'out', result!), 'utf8'))
    // theirs is the mean over records, ours over tokens
    const theirs = Math.log(results.answers['perplexity,none']) * records.length
    const { loss, targets } = await evaluate({ model, data, device: 'cpu' })
    expect(Math.abs(theirs / (loss * targets) - 1)).toBeLessThan(1e-5)
  })

  test('the Python client gets the same answers, whole and in chunks', { timeout: 60_000 }, async () => {
    const { url, close } = await startServer(model, { adapter: [] })
    const script = `
import json, sys
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
ask = dict(model="model", messages=[{"role": "user", "content": "rev(kdaf)="}], max_tokens=12, temperature=0)
whole = client.chat.completions.create(**ask).choices[0].message.content
chunks = client.chat.completions.create(**ask, stream=True)
print(json.dumps([whole, "".join(chunk.choices[0].delta.content or "" for chunk in chunks), client.models.list().data[0].id]))
`
    const { stdout } = await run(python!, ['-c', script, url])
    const large = await loadModel(model, { device: 'cpu' })
    const { text } = await large.complete('rev(kdaf)=', { chat: true, maxNewTokens: 12 })
    await Promise.all([large.close(), close()])
    expect(JSON.parse(stdout)).toEqual([text, text, 'model'])
  })
})
