import { Command, CommanderError } from 'commander'
import { ConfigError } from '../errors.ts'
import { version } from '../package.ts'
import { addCommand } from './command.ts'
import { commands } from './commands/index.ts'
import { addInit } from './commands/init.ts'
import { exitCodes } from './exitCode.ts'
import { table } from './output.ts'

const lineWidth = 100

/**
 * Runs the command that `argv` (as process.argv) asks for.
 * @throws {LoramError} `E_CONFIG` for usage, otherwise what the command throws
 */
export async function runProgram(argv: readonly string[]): Promise<void> {
  try {
    await createProgram().parseAsync(argv)
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    if (error.exitCode !== 0) throw usageError(error)
  }
}

function createProgram(): Command {
  const program = new Command('loram')
    .description('Train LoRA on a pruned, 4-bit model and use it on the large one (LoRAM, arXiv 2502.13533).')
    .version(version)
    .exitOverride()
    .configureOutput({
      getOutHelpWidth: () => Math.min(process.stdout.columns ?? lineWidth, lineWidth),
      getErrHelpWidth: () => Math.min(process.stderr.columns ?? lineWidth, lineWidth),
      outputError: () => {}, // printed as every other error
    })
  for (const spec of commands) addCommand(program, spec)
  addInit(program)
  const codes = Object.entries(exitCodes).map(([code, meaning]) => [code.padStart(3), meaning] as const)
  return program.addHelpText('after', `\nExit codes:\n${table(codes)}`)
}

/** Commander's message has its suggestion in a second line, in parentheses. */
function usageError({ code, message }: CommanderError): ConfigError {
  if (code === 'commander.help') {
    return new ConfigError('E_CONFIG', 'no command', { remedy: 'name one of the above' })
  }
  const [headline = '', hint] = message.replace(/^error: /, '').split('\n')
  const remedy = hint
    ? hint.replace(/^\(D(.*)\)$/, 'd$1')
    : 'loram --help, or --help after a command, lists what there is'
  return new ConfigError('E_CONFIG', headline, { remedy })
}
