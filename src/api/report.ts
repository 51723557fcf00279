import path from 'node:path'
import { writeFileAtomic } from '../formats/atomic.ts'
import { type ReportOptions, reportOptions } from '../options/index.ts'
import { readHistory } from '../report/history.ts'
import { reportPage } from '../report/page.ts'
import { validate } from '../validate.ts'

/**
 * Writes a page about one run or several: curves, memory, samples. A run may still be under way.
 * @returns the HTML file, which needs nothing outside of it
 * @throws {FileError} `E_FILE`: a folder holds no run
 */
export function report(options: ReportOptions): { output: string } {
  const { runs, output = path.join(runs[0]!, 'report.html') } = validate(reportOptions, options)
  writeFileAtomic(output, reportPage(runs.map(readHistory)))
  return { output }
}
