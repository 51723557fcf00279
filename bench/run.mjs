#!/usr/bin/env node
// Measures loram, beside others where --peer names their Python, and compares with earlier results: `npm run bench -- --help`.
// Prints a line of JSON a case, appends it to a file, and ends with 1 where something got worse. docs/benchmarks.md has more.
import { fileURLToPath } from 'node:url'
import { Argument, Command, Option } from 'commander'
import { deviceNames, openDevice } from '../dist/tensor/device.js'
import { compareResults, formatComparison } from './lib/compare.mjs'
import { machine } from './lib/machine.mjs'
import { appendResult, labelOf, readResults } from './lib/results.mjs'
import * as cpu from './suites/cpu.mjs'
import * as distributed from './suites/distributed.mjs'
import * as kernels from './suites/kernels.mjs'
import * as large from './suites/large.mjs'
import * as memory from './suites/memory.mjs'
import * as scaling from './suites/scaling.mjs'
import * as steps from './suites/steps.mjs'

const suites = { cpu, kernels, steps, memory, scaling, large, distributed }
const withPeers = [cpu, kernels, steps]
const descriptions = Object.entries(suites).map(([name, { description }]) => `  ${name.padEnd(13)}${description}`)

await new Command('bench')
  .description('Measures loram on this machine.')
  .addArgument(new Argument('<suite>', 'what to measure').choices(Object.keys(suites)))
  .argument('[case...]', 'names of cases, or of single ones as --list prints them; all without any')
  .addOption(new Option('--device <name>', 'where').choices(deviceNames).default('auto'))
  .option('--peer <python>', 'interpreter with torch, transformers, PEFT, bitsandbytes: measures them in the same run')
  .addOption(new Option('--trainers <names...>', 'whom --peer measures in the suite steps').choices(steps.trainers))
  .option('--compare <baseline>', 'file of earlier results: fails where a case is slower, or takes more memory')
  .option('--output <file>', 'file that results are appended to (default: bench/results/<suite>.jsonl)')
  .option('--list', 'print the names of the cases, and measure nothing')
  .addHelpText('after', `\nSuites:\n${descriptions.join('\n')}`)
  .action(bench)
  .parseAsync()

async function bench(name, names, { device: deviceName, peer: python, trainers, compare, output, list }, command) {
  const suite = suites[name]
  if (trainers && (suite !== steps || !python)) command.error('--trainers goes with the suite steps and --peer')
  const device = openDevice(suite === cpu ? 'cpu' : deviceName)
  const cases = select(suite.casesFor(device), names, command)
  if (list) return console.log(cases.map(labelOf).join('\n'))
  const baseline = compare && readResults(compare)
  if (!python && withPeers.includes(suite)) console.error('no peer is measured: --peer names a Python that has them')

  const file = output ?? fileURLToPath(new URL(`results/${name}.jsonl`, import.meta.url))
  const results = []
  for await (const measured of suite.run(cases, { device, python, trainers })) {
    const line = { ...measured, ...machine(device) }
    console.log(JSON.stringify(line))
    if (line.failure === undefined) appendResult(file, line)
    results.push(line)
  }
  for (const line of results.filter(({ failure }) => failure !== undefined)) {
    console.error(`${labelOf(line)} failed: ${line.failure}`)
    process.exitCode = 1
  }
  if (baseline) report(compareResults(baseline, results), compare, command)
}

function select(cases, names, command) {
  const unknown = names.filter((name) => !cases.some((one) => isNamed(one, name)))
  if (unknown.length > 0) command.error(`no case ${unknown.join(', ')} on this device; --list prints what there is`)
  return names.length === 0 ? cases : cases.filter((one) => names.some((name) => isNamed(one, name)))
}

function isNamed(options, name) {
  return options.case === name || labelOf(options) === name
}

function report(rows, compare, command) {
  if (rows.length === 0) command.error(`${compare} has none of these cases on this machine`)
  console.table(formatComparison(rows))
  const worse = rows.filter((row) => row.worse).length
  console.error(worse ? `${worse} of ${rows.length} got worse than ${compare}` : `nothing got worse than ${compare}`)
  if (worse) process.exitCode = 1
}
