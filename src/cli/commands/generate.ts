import { loadModel } from '../../api/loadModel.ts'
import type { Generation } from '../../infer/loadedModel.ts'
import type { Loading } from '../../model/open.ts'
import { generateCommandOptions } from '../../options/index.ts'
import { command } from '../command.ts'
import { notice } from '../output.ts'
import { abortOnSignal } from '../signals.ts'

export const generate = command({
  name: 'generate',
  description: 'Text that follows a prompt, written as it is generated',
  options: generateCommandOptions,
  async run(
    { model, adapter, quantize, quantizeTables, device, prompt, ...options },
    json,
  ): Promise<(Generation & { loading: Loading }) | undefined> {
    const signal = abortOnSignal(notice)
    const large = await loadModel(model, { adapter, quantize, quantizeTables, device })
    try {
      if (json) return { ...(await large.complete(prompt, { ...options, signal })), loading: large.loading }
      for await (const text of large.generate(prompt, { ...options, signal })) process.stdout.write(text)
      return undefined
    } finally {
      await large.close()
    }
  },
  show: () => '',
})
