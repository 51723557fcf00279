import type { z } from 'zod'
import { corpusExamples } from '../data/index.ts'
import { firstBeforeOthers, isFirst, type SharedContext } from '../distributed/group.ts'
import { together } from '../distributed/join.ts'
import { requireVacant } from '../formats/atomic.ts'
import { fingerprint } from '../formats/huggingFace.ts'
import { openModelFolder } from '../model/open.ts'
import { addon } from '../native/load.ts'
import type { alignCommandOptions } from '../options/index.ts'
import { openDevice } from '../tensor/device.ts'
import type { Device } from '../tensor/tensor.ts'
import { loadTokenizer } from '../tokenizer/tokenizer.ts'
import type { Context } from '../worker/protocol.ts'
import { align } from './align.ts'
import { checkpointsIn } from './checkpoint.ts'
import type { RunEvent } from './events.ts'
import { followFolder, openWorkFolder } from './runFolder.ts'
import { positionNotices } from './runPlans.ts'

type Options = z.output<typeof alignCommandOptions>

/** Alignment by itself. Beside the folder that it writes, another one has the checkpoints until that is there. */
export function alignRun(options: Options, context: Context<RunEvent>): Promise<void> {
  const device = openDevice(options.device)
  return together(device, context, (shared) => alignTogether(options, device, shared))
}

async function alignTogether(options: Options, device: Device, context: SharedContext<RunEvent>): Promise<void> {
  const { model, data, output, cache, sequenceLength } = options
  const { group, emit, signal } = context
  const notice = (message: string) => emit({ type: 'notice', message })
  const source = openModelFolder(model)
  const root = `${output}.checkpoints`
  if (isFirst(group)) requireVacant(output)
  const folder = isFirst(group) ? openWorkFolder(root, options, () => checkpointsIn(root), notice) : followFolder(root)
  for (const message of positionNotices(source, { sequenceLength })) notice(message)
  try {
    folder.remember('model', { loram: addon().version, fingerprint: fingerprint(source.checkpoint) })
    const dataset = await firstBeforeOthers(group, () =>
      corpusExamples(data, loadTokenizer(model), sequenceLength, { cache, notice, signal }),
    )
    try {
      folder.remember('data', { train: dataset.digest })
      align(source, dataset.examples, options, device, root, output, context)
    } finally {
      dataset.close()
    }
  } finally {
    folder.close()
  }
}
