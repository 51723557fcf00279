import type { CommandSpec } from '../command.ts'
import { build } from './build.ts'
import { chat } from './chat.ts'
import { checkAdapter } from './checkAdapter.ts'
import { dataPreview } from './data.ts'
import { doctor } from './doctor.ts'
import { evaluate } from './evaluate.ts'
import { generate } from './generate.ts'
import { plan } from './plan.ts'
import { report } from './report.ts'
import { serve } from './serve.ts'
import { align, exportModel, merge, prune, recover } from './stages.ts'
import { train } from './train.ts'

/** All commands whose options are a schema, in the order that help has them. */
export const commands: readonly CommandSpec[] = [
  train,
  prune,
  align,
  recover,
  merge,
  exportModel,
  checkAdapter,
  evaluate,
  generate,
  chat,
  serve,
  report,
  dataPreview,
  plan,
  doctor,
  build,
]
