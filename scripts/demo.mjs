// `npm run demo`: the whole of LoRAM on a tiny model, in about a minute.
//   --output <folder>  where the adapter and the report go; what an earlier demo left there is replaced. Default runs/demo
//   --json             ends stdout with one line of numbers for programs
//   --quick            a few steps and questions only, to see that everything runs
import { rmSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { report } from 'loram'
import { ProgressDisplay } from '../dist/cli/progress.js'
import { formatPlan, formatRows, parts } from './demo/format.mjs'
import { demoLength, demoPlan, quickLength, runDemo } from './demo/run.mjs'

const shipped = (name) => fileURLToPath(new URL(`../demo/${name}`, import.meta.url))
const model = path.relative('.', shipped('model'))
const { values } = parseArgs({
  options: {
    output: { type: 'string', default: 'runs/demo' },
    json: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
  },
})
const { output, json, quick } = values

console.log(`${formatPlan(demoPlan(model))}\n`)
for (const run of ['loram', 'full']) rmSync(path.join(output, run), { recursive: true, force: true })
const display = new ProgressDisplay()
const partNames = Object.keys(parts)
let current
const result = await runDemo({
  model,
  data: path.relative('.', shipped('data')),
  output,
  length: quick ? quickLength : demoLength,
  onProgress(part, progress) {
    if (part !== current) console.error(`\n[${partNames.indexOf(part) + 1}/${partNames.length}] ${parts[part]}`)
    current = part
    if (progress.type !== 'answer') display.event(progress)
    else if (progress.answered % 50 === 0)
      console.error(`${progress.answered} of ${progress.prompts} questions answered`)
  },
}).finally(() => display.done())
const page = report({ runs: [result.adapter, result.ceiling], output: path.join(output, 'report.html') })
console.log(`\n${formatRows(result.rows)}\n`)
console.log(`adapter  ${result.adapter}\nreport   ${page.output}\n${result.seconds.toFixed(0)} s`)
if (json) console.log(JSON.stringify({ rows: result.rows, seconds: result.seconds }))
