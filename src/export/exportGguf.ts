import path from 'node:path'
import { ConfigError } from '../errors.ts'
import { buildFolder, requireVacant, writeFileAtomic } from '../formats/atomic.ts'
import { readAdapter } from '../formats/peft.ts'
import { openModelFolder } from '../model/open.ts'
import type { exportContents } from '../options/index.ts'
import { loadTokenizer } from '../tokenizer/tokenizer.ts'
import type { ExportType } from './encode.ts'
import { writeGgufAdapter } from './ggufAdapter.ts'
import { writeGgufModel } from './ggufModel.ts'
import { formatModelfile } from './modelfile.ts'

interface ExportOptions {
  model: string
  adapter?: string | undefined
  content: (typeof exportContents)[number]
  type: ExportType
  output: string
}

const adapterFile = 'adapter.gguf'

/** Writes what `content` says into the new folder `output`, and a Modelfile where there is a model for Ollama to start from. */
export function exportGguf({ model, adapter: adapterDir, content, type, output }: ExportOptions): void {
  if (content !== 'merged' && adapterDir === undefined) {
    throw new ConfigError('E_CONFIG', 'there is no adapter to export', {
      field: 'adapter',
      expected: `the folder of an adapter, for content ${content}`,
    })
  }
  requireVacant(output)
  const source = openModelFolder(model)
  const adapter = adapterDir === undefined ? undefined : readAdapter(adapterDir)
  const modelFile = `model-${type}.gguf`
  try {
    buildFolder(output, (folder) => {
      if (content !== 'merged') writeGgufAdapter(source, adapter!, path.join(folder, adapterFile))
      if (content === 'adapter') return
      const merged = content === 'merged' ? adapter : undefined
      writeGgufModel(source, merged, type, path.join(folder, modelFile))
      const apart = content === 'both' ? adapterFile : undefined
      writeFileAtomic(path.join(folder, 'Modelfile'), formatModelfile(loadTokenizer(model), modelFile, apart))
    })
  } finally {
    source.checkpoint.close()
  }
}
