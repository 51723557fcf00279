import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { firstOf } from '../../dist/data/encode.js'
import { corpusExamples, loadExamples } from '../../dist/data/index.js'
import { writeFileAtomic } from '../../dist/formats/atomic.js'
import { isGguf } from '../../dist/formats/gguf/file.js'
import { writeCheckpoint } from '../../dist/formats/huggingFace.js'
import { evaluateExamples } from '../../dist/infer/perplexity.js'
import { scoreTask } from '../../dist/infer/tasks/index.js'
import { pairsOf, usePairs } from '../../dist/lora/attach.js'
import { openModelFolder, readModel } from '../../dist/model/open.js'
import { readTensor } from '../../dist/model/weights.js'
import { cpu } from '../../dist/tensor/device.js'
import { loadTokenizer } from '../../dist/tokenizer/tokenizer.js'
import { neverAborted } from '../../dist/worker/protocol.js'

const sequenceLength = 512

/**
 * What trains, aligns and tests, of the folder `data`: `gsm8k/train.jsonl` and `test.jsonl`, `code-alpaca-1k.json`,
 * `brown.jsonl`, `wikitext-2/valid.txt` and `test.txt`. What has to be written anew for that goes to `work`.
 */
export function prepareData(data, work) {
  mkdirSync(work, { recursive: true })
  const at = (name) => path.join(data, name)
  const read = (name) => readFileSync(at(name), 'utf8')
  const made = (name, content) => {
    const file = path.join(work, name)
    if (!existsSync(file)) writeFileAtomic(file, content().join('\n'))
    return file
  }
  const code = () => JSON.parse(read('code-alpaca-1k.json')).map((record) => JSON.stringify(asked(record)))
  const brown = () => Array.from(read('brown.jsonl').trim().split('\n'), (line) => JSON.parse(line).text)
  return {
    train: at('gsm8k/train.jsonl'),
    text: [made('brown.txt', brown), at('wikitext-2/valid.txt')],
    tests: { gsm8k: at('gsm8k/test.jsonl'), code: made('code.jsonl', code), wikitext: at('wikitext-2/test.txt') },
  }
}

/** A record of Code Alpaca in the words of GSM8K. */
const asked = ({ instruction, input, output }) => ({
  question: input ? `${instruction}\n${input}` : instruction,
  answer: output,
})

/** The model as a folder in 16 bits: of a GGUF file each slice of rotating ones would be unpacked again. */
export function asFolder(model, work) {
  if (!isGguf(model)) return model
  const dir = path.join(work, 'model')
  if (existsSync(dir)) return dir
  const { checkpoint } = openModelFolder(model)
  writeCheckpoint(dir, {
    configJson: checkpoint.configJson,
    entries: Array.from(checkpoint.tensors, ([name, { dtype, shape }]) => ({ name, dtype, shape })),
    data: (name) => new Uint8Array(readTensor(checkpoint, name, cpu).read().buffer),
    copyFrom: model,
  })
  return dir
}

/** GSM8K's own mark, and where a model that was not trained on it goes on to a question of its own. */
const gsm8k = { kind: 'exact-match', answer: '#### (\\S+)', stop: ['Question:'], maxNewTokens: 256 }

/**
 * The original, not quantised, and the test sets, of each at most `testRows` rows.
 * @returns what measures an adapter, or the original alone: `perplexity` of answers, and of running text in windows of 512
 * tokens; with `questions` above 0 also `exactMatch`, of generated answers to the first so many of GSM8K
 */
export async function openJudge(dir, tests, device, { testRows, questions }) {
  const tokenizer = loadTokenizer(dir)
  const { model, loading } = readModel(openModelFolder(dir), device, { quantize: 'none' })
  const cache = { cache: true }
  const answers = (file) => loadExamples(file, tokenizer, { sequenceLength }, cache)
  const sets = {
    gsm8k: (await answers(tests.gsm8k)).examples,
    code: (await answers(tests.code)).examples,
    wikitext: wholeWindows((await corpusExamples(tests.wikitext, tokenizer, sequenceLength, cache)).examples),
  }
  const perplexityOf = (examples) => {
    const sizes = { microBatchSize: 32, sequenceLength }
    return evaluateExamples(model, firstOf(examples, testRows), sizes, neverAborted).perplexity
  }
  const perplexity = () => Object.fromEntries(Object.entries(sets).map(([name, set]) => [name, perplexityOf(set)]))
  const exactMatch = async () => {
    const sizes = { data: tests.gsm8k, format: 'auto', limit: questions, sequenceLength, microBatchSize: 128 }
    const { kind, ...score } = await scoreTask({ model, tokenizer, loading }, gsm8k, sizes, neverAborted)
    return score
  }
  const measuring = (measure) => async (adapter) => {
    const pairs = adapter ? pairsOf(model, adapter) : new Map()
    usePairs(model, pairs)
    const measured = await measure()
    for (const { a, b } of pairs.values()) for (const tensor of [a, b]) tensor.dispose()
    return measured
  }
  return { perplexity: measuring(perplexity), ...(questions > 0 && { exactMatch: measuring(exactMatch) }) }
}

/** Running text without its last, shorter window. */
function wholeWindows(examples) {
  const last = examples.length - 1
  const length = examples.tokens(last) < sequenceLength ? last : examples.length
  return { length, at: (i) => examples.at(i) }
}
