// Writes the tables of docs/configuration.md and docs/cli.md from the schemas that the commands check against, between
// <!-- NAME --> and <!-- end -->. With --check only says whether they are current. Needs a build.
import { readFileSync, writeFileSync } from 'node:fs'
import { commands } from '../dist/cli/commands/index.js'
import { exitCodes } from '../dist/cli/exitCode.js'
import { fieldsOf, flagOf } from '../dist/cli/fields.js'
import { trainLoRAMOptions } from '../dist/options/index.js'

const row = (cells) => `| ${cells.join(' | ')} |`
const table = (head, rows) => [row(head), row(head.map(() => '---')), ...rows.map(row)].join('\n')
const code = (text) => `\`${text}\``

function defaultOf({ required, section, default: value }) {
  if (required) return section ? `required with ${code(section)}` : 'required'
  return value === undefined ? '' : code([value].flat().join(', '))
}

function typeOf({ type, values, isList }) {
  const one = values ? values.map(code).join(', ') : type
  return isList ? `list of ${one}` : one
}

const options = (fields, name) =>
  table(
    ['Option', 'Values', 'Default', 'Meaning'],
    fields.map((field) => [code(name(field.path)), typeOf(field), defaultOf(field), field.description]),
  )

const blocks = {
  options: options(fieldsOf(trainLoRAMOptions), (path) => path),
  'exit-codes': table(['Exit code', 'Meaning'], Object.entries(exitCodes)),
  ...Object.fromEntries(commands.map((spec) => [spec.name.replace(' ', '-'), options(fieldsOf(spec.options), flagOf)])),
}

const check = process.argv.includes('--check')
for (const name of ['docs/configuration.md', 'docs/cli.md']) {
  const file = new URL(`../${name}`, import.meta.url)
  const before = readFileSync(file, 'utf8')
  const after = before.replace(
    /<!-- (\S+) -->\n[\s\S]*?<!-- end -->/g,
    (_, block) => `<!-- ${block} -->\n${blocks[block]}\n<!-- end -->`,
  )
  if (before === after) continue
  if (!check) writeFileSync(file, after)
  else {
    console.error(`${name} is not what the schemas say; run: npm run build:ts && node scripts/docs-config.mjs`)
    process.exitCode = 1
  }
}
