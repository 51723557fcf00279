import { reportOptions } from '../../options/index.ts'
import { command } from '../command.ts'

export const report = command({
  name: 'report',
  description: 'Write a page about one run or several: curves, memory, samples',
  options: reportOptions,
  argument: 'runs',
  run: async (options) => (await import('../../api/report.ts')).report(options),
  show: ({ output }) => `wrote ${output}`,
})
