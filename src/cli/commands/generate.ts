import { loadModel } from '../../api/loadModel.ts'
import type { Generation } from '../../infer/loadedModel.ts'
import { generateCommandOptions } from '../../options.ts'
import { command } from '../command.ts'
import { notice } from '../output.ts'
import { abortOnSignal } from '../signals.ts'

export const generate = command({
  name: 'generate',
  description: 'Text that follows a prompt, written as it is generated',
  options: generateCommandOptions,
  async run({ model, adapter, quantize, device, prompt, ...options }, json): Promise<Generation | undefined> {
    const signal = abortOnSignal(notice)
    const large = await loadModel(model, { adapter, quantize, device })
    try {
      if (json) return await large.complete(prompt, { ...options, signal })
      for await (const text of large.generate(prompt, { ...options, signal })) process.stdout.write(text)
      return undefined
    } finally {
      await large.close()
    }
  },
  show: () => '',
})
