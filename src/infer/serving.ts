import type { z } from 'zod'
import { ConfigError } from '../errors.ts'
import type { Pairs } from '../lora/attach.ts'
import type { inferenceOptions } from '../options/index.ts'
import { loadWithAdapters } from './loadedModel.ts'
import { Scheduler } from './scheduler.ts'

/** A base model, adapters for it, and how much is generated at once. */
export interface ServedModels extends Omit<z.output<typeof inferenceOptions>, 'adapter'> {
  /** The base model's name in requests. */
  name: string
  /** Folders of adapters by their names in requests. */
  adapters: ReadonlyMap<string, string>
  maxSequences: number
  contextLength: number | undefined
}

const defaultContextLength = 2048

/**
 * Reads the models, and plans memory for `maxSequences` of `contextLength`.
 * @throws {ConfigError} `E_CONFIG`: the model was not made for so long a context
 */
export function openScheduler({ name, adapters, maxSequences, contextLength, ...base }: ServedModels): Scheduler {
  const { loaded, adapters: pairs } = loadWithAdapters(base, [...adapters.values()])
  const most = loaded.model.config.maxPositionEmbeddings
  if (contextLength !== undefined && contextLength > most) {
    throw new ConfigError('E_CONFIG', 'the model was not made for so long a context', {
      field: 'contextLength',
      expected: `at most ${most}, its max_position_embeddings`,
      found: String(contextLength),
    })
  }
  const models = new Map<string, Pairs>([[name, new Map()]])
  for (const [i, adapter] of [...adapters.keys()].entries()) models.set(adapter, pairs[i]!)
  return new Scheduler(loaded, models, {
    maxSequences,
    contextLength: contextLength ?? Math.min(defaultContextLength, most),
  })
}
