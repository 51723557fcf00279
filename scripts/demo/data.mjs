// Writes the demo's data:  node scripts/demo/data.mjs [folder]
import path from 'node:path'
import { writeLines } from './jsonLines.mjs'
import { knownText, questions } from './tasks.mjs'

const [folder = 'demo/data'] = process.argv.slice(2)
const write = (name, records) => writeLines(path.join(folder, `${name}.jsonl`), records)

write('corpus', knownText(2, 10_000))
write('train', questions(3, 2000, false))
write('validation', questions(4, 100, true))
write('test', questions(5, 200, true))
