import type { z } from 'zod'
import type { previewOptions } from '../options/index.ts'
import { loadTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts'
import type { StopSignal } from '../worker/protocol.ts'
import { type Example, firstOf, ignoredTarget } from './encode.ts'
import { loadExamples } from './index.ts'
import type { DataStatistics } from './statistics.ts'

/** An example as training sees it. */
export interface Sample {
  tokens: number
  targets: number
  /** Its text, special tokens included, cut where what is learnt begins and ends. */
  pieces: { text: string; learnt: boolean }[]
}

export interface DataPreview {
  statistics: DataStatistics
  samples: Sample[]
}

/** Encodes all of a data set as training does, and gives back what came of it and the first examples. */
export async function previewDataset(
  { model, data, format, samples, cache, ...options }: z.output<typeof previewOptions>,
  notice: (message: string) => void,
  signal: StopSignal,
): Promise<DataPreview> {
  const tokenizer = loadTokenizer(model)
  const chosen = { ...options, ...(format !== 'auto' && { format }) }
  const dataset = await loadExamples(data, tokenizer, chosen, { cache, notice, signal })
  try {
    const shown = Array.from(firstOf(dataset.examples, samples), (example) => sampleOf(example, tokenizer))
    return { statistics: dataset.statistics, samples: shown }
  } finally {
    dataset.close()
  }
}

function sampleOf({ ids, targets }: Example, tokenizer: Tokenizer): Sample {
  const isLearnt = (i: number) => i > 0 && targets[i - 1] !== ignoredTarget
  // a token's text can depend on those before it
  const textUpTo = (end: number) => tokenizer.decode(ids.subarray(0, end), { skipSpecialTokens: false })
  const pieces: Sample['pieces'] = []
  let shown = ''
  for (let i = 0; i < ids.length; i++) {
    if (i + 1 < ids.length && isLearnt(i + 1) === isLearnt(i)) continue
    const text = textUpTo(i + 1)
    pieces.push({ text: text.slice(shown.length), learnt: isLearnt(i) })
    shown = text
  }
  return { tokens: ids.length, targets: targets.filter((target) => target !== ignoredTarget).length, pieces }
}
