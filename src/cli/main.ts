#!/usr/bin/env node
import { type ExitCode, exitCodeOf } from './exitCode.ts'
import { printError } from './output.ts'
import { runProgram } from './program.ts'

// A reader that goes away, such as head, ends the command as SIGPIPE would end another program
process.stdout.on('error', () => process.exit(130 satisfies ExitCode))

try {
  await runProgram(process.argv)
} catch (error) {
  printError(error, process.argv.includes('--json'))
  process.exitCode = exitCodeOf(error)
}
