import { arenaFor } from '../memory/measure.ts'
import { KvCache } from '../model/kvCache.ts'
import { logitsOf, type Model, modelForward } from '../model/model.ts'
import type { Arena } from '../tensor/arena.ts'
import { streamDecoder } from '../tokenizer/streamDecoder.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { toDevice } from '../train/step.ts'
import { type SampleOptions, sample } from './sample.ts'

export interface GenerateOptions extends SampleOptions {
  maxNewTokens: number
  /** Text that ends generation; it is not part of the result. */
  stop: readonly string[]
}

export const generateDefaults: GenerateOptions = {
  maxNewTokens: 128,
  temperature: 0,
  topK: 0,
  topP: 1,
  seed: 0,
  stop: [],
}

/** A prompt goes through the model in pieces of at most this many tokens, which bounds the memory it takes. */
const prefillTokens = 512

/** Token ids that follow `prompt`, one by one, up to and without an end-of-sequence token. */
export function* generateTokens(
  model: Model,
  prompt: readonly number[],
  options: Pick<GenerateOptions, 'maxNewTokens'> & SampleOptions,
): Generator<number, void> {
  const capacity = prompt.length + options.maxNewTokens
  const cache = new KvCache(model, capacity)
  const piece = Math.min(prompt.length, prefillTokens)
  const arena = arenaFor(model, (twin, meta) =>
    nextLogits(twin, meta, new KvCache(twin, capacity), prompt.slice(0, piece)),
  )
  try {
    let input = prompt
    for (let step = 0; step < options.maxNewTokens; step++) {
      let logits: Float32Array | undefined
      for (let at = 0; at < input.length; at += piece) {
        logits = nextLogits(model, arena, cache, input.slice(at, at + piece))
      }
      const id = sample(logits!, options, step)
      if (model.config.eosTokenIds.includes(id)) return
      yield id
      input = [id]
    }
  } finally {
    arena.dispose()
    cache.dispose()
  }
}

/** Appends `ids` to the cached sequence and gives the logits [vocab] of what comes next. */
function nextLogits(model: Model, arena: Arena, cache: KvCache, ids: readonly number[]): Float32Array {
  const start = arena.mark()
  const from = cache.length
  cache.advance(ids.length)
  const tokens = toDevice(arena, {
    ids: Int32Array.from(ids),
    positions: Int32Array.from(ids, (_, i) => from + i),
    bounds: Int32Array.of(0, ids.length),
  })
  const x = modelForward(model, arena, tokens, cache)
  const logits = logitsOf(model, x.rows(ids.length - 1, ids.length)).read() as Float32Array
  arena.release(start)
  return logits
}

/**
 * Text that follows `prompt`, in pieces as it is generated.
 * @param tokenIds receives the ids that the text is made of
 */
export function* generateText(
  model: Model,
  tokenizer: Tokenizer,
  prompt: readonly number[],
  options: GenerateOptions,
  tokenIds: number[] = [],
): Generator<string, void> {
  let pending = ''
  for (const text of decoded()) {
    pending += text
    const end = firstOf(pending, options.stop)
    const safe = end >= 0 ? end : pending.length - heldBack(pending, options.stop)
    if (safe > 0) yield pending.slice(0, safe)
    if (end >= 0) return
    pending = pending.slice(safe)
  }
  if (pending) yield pending

  function* decoded() {
    const decoder = streamDecoder(tokenizer)
    for (const id of generateTokens(model, prompt, options)) {
      tokenIds.push(id)
      yield decoder.push(id)
    }
    yield decoder.end()
  }
}

/** Where the first stop text begins, or -1. */
function firstOf(text: string, stop: readonly string[]): number {
  const found = stop.map((s) => text.indexOf(s)).filter((at) => at >= 0)
  return found.length ? Math.min(...found) : -1
}

/** Length of the longest end of `text` that may become a stop text. */
function heldBack(text: string, stop: readonly string[]): number {
  const most = Math.max(0, ...stop.map((s) => s.length - 1))
  for (let length = Math.min(most, text.length); length > 0; length--) {
    if (stop.some((s) => s.startsWith(text.slice(-length)))) return length
  }
  return 0
}
