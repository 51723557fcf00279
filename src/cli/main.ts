#!/usr/bin/env node
import { RunError } from '../errors.ts'
import { checkNode } from '../nodeVersion.ts'
import { type ExitCode, exitCodeOf } from './exitCode.ts'
import { printError } from './output.ts'

// A reader that goes away, such as head, ends the command as SIGPIPE would end another program
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(130 satisfies ExitCode)
  const failure = new RunError('E_DISK', 'stdout cannot be written', { found: error.message, cause: error })
  printError(failure, false)
  process.exit(exitCodeOf(failure))
})

try {
  checkNode()
  // Only now, since an older Node may not even link what the commands import
  const { runProgram } = await import('./program.ts')
  await runProgram(process.argv)
} catch (error) {
  printError(error, process.argv.includes('--json'))
  process.exitCode = exitCodeOf(error)
}
