#!/usr/bin/env node
// What each variant of LoRAM makes of a real model: `npm run bench:quality -- --help`. Trains every row, recovers its adapter,
// measures it on the original, and appends a line of JSON; `npm run bench:quality:table` makes the table of docs/smollm2.md.
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Command, InvalidArgumentError, Option } from 'commander'
import { AbortError } from '../dist/errors.js'
import { deviceNames, openDevice } from '../dist/tensor/device.js'
import { machine } from './lib/machine.mjs'
import { asFolder, openJudge, prepareData } from './lib/qualityData.mjs'
import { runRecipe } from './lib/qualityRun.mjs'
import { recipes } from './lib/recipes.mjs'
import { appendResult, readResults } from './lib/results.mjs'

const here = (name) => fileURLToPath(new URL(name, import.meta.url))
/** What two lines have in common of which one need not be measured. */
const sameWork = ['row', 'seed', 'testRows', 'questions', 'maxSteps', 'gpu', 'commit']
const isSameWork = (one, other) => sameWork.every((key) => one[key] === other[key])

await new Command('bench:quality')
  .description('Measures what recovered adapters are worth on a real model.')
  .argument('[row...]', 'names in bench/lib/recipes.mjs; all without any')
  .requiredOption('--model <path>', 'the original: a Hugging Face folder or a GGUF file')
  .requiredOption('--data <folder>', 'GSM8K, Code Alpaca, WikiText-2 and the Brown corpus: bench/lib/qualityData.mjs')
  .option('--seeds <count>', 'runs of each row', from(1), 1)
  .option('--first-seed <number>', 'of these runs: several processes can share a GPU', from(0), 42)
  .addOption(new Option('--device <name>', 'where').choices(deviceNames).default('auto'))
  .option('--output <file>', 'results are appended to it', here('results/quality.jsonl'))
  .option('--work <folder>', 'keeps what the next call can use', here('../runs/quality'))
  .option('--test-rows <count>', 'of each test set, from its start; all without it', from(1))
  .option('--questions <count>', 'of GSM8K, to be answered; 0 leaves exact match out', from(0), 400)
  .option('--max-steps <count>', 'steps of alignment and of training: a trial', from(1))
  .option('--limit-seconds <count>', 'ends then, without the row that is under way', seconds)
  .option('--again', 'also what this commit has measured')
  .action(measureRows)
  .parseAsync()

function from(least) {
  return (text) => {
    const value = Number(text)
    if (!Number.isInteger(value) || value < least) {
      throw new InvalidArgumentError(`A whole number from ${least} on is needed.`)
    }
    return value
  }
}

function seconds(text) {
  const value = Number(text)
  if (!(value > 0)) throw new InvalidArgumentError('A number above 0 is needed.')
  return value
}

async function measureRows(names, options, command) {
  const { data: folder, work, output, testRows, questions, maxSteps, limitSeconds = Number.POSITIVE_INFINITY } = options
  const unknown = names.filter((name) => !recipes[name])
  if (unknown.length > 0) command.error(`no row ${unknown.join(', ')}; there are ${Object.keys(recipes).join(', ')}`)
  const device = openDevice(options.device)
  const measured = existsSync(output) && !options.again ? readResults(output) : []
  const machineNow = machine(device)
  const rows = Array.from({ length: options.seeds }, (_, i) => options.firstSeed + i)
    .flatMap((seed) =>
      (names.length > 0 ? names : Object.keys(recipes)).map((row) => ({ row, seed, testRows, questions, maxSteps })),
    )
    .filter((row) => !measured.some((line) => isSameWork(line, { ...row, ...machineNow })))

  const data = prepareData(folder, work)
  const model = asFolder(options.model, work)
  const judge = await openJudge(model, data.tests, device, { testRows, questions })
  const signal = {
    get aborted() {
      return performance.now() > 1000 * limitSeconds
    },
  }
  const setting = { model, data, judge, device, maxSteps, work, signal }
  for (const row of rows) {
    try {
      const result = await runRecipe(recipes[row.row], { ...setting, seed: row.seed })
      const line = { ...row, ...result, ...machine(device) }
      console.log(JSON.stringify(line))
      appendResult(output, line)
    } catch (error) {
      if (!(error instanceof AbortError)) throw error
      return console.error(`out of time in ${row.row}, seed ${row.seed}; the same command goes on from there`)
    }
  }
}
