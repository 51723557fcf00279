import { describe, expect, test } from 'vitest'
import { Engine } from '../../src/infer/engine.ts'
import { generateDefaults, generateTokens } from '../../src/infer/generate.ts'
import { TokenSequence } from '../../src/infer/tokenSequence.ts'
import { adapterFrom, addAdapter, loraDefaults, type Pairs, pairsOf, usePairs } from '../../src/lora/attach.ts'
import type { Model } from '../../src/model/model.ts'
import { goldenPath } from '../golden.ts'
import { forwardLogits, loadDirectory } from '../model/support.ts'
import { expectWithin, generator, largest, onEveryDevice } from '../ops/support.ts'

// with sliding windows, and with norms of heads
describe.each(['llama3', 'mistral', 'qwen3'])('of %s', (name) =>
  onEveryDevice('the engine', (device) => {
    const load = () => loadDirectory(goldenPath('models', name), device)
    const loaded = load()
    const model: Model = { ...loaded, config: { ...loaded.config, eosTokenIds: [] } }
    const base: Pairs = new Map()
    const adapters = [base, randomAdapter(4, 1), randomAdapter(8, 2)]

    function randomAdapter(rank: number, seed: number): Pairs {
      const options = { ...loraDefaults, rank }
      const parameters = addAdapter(load(), options, seed)
      for (const [name, { value }] of parameters.byName) {
        if (name.endsWith('lora_B'))
          value.write(Float32Array.from({ length: value.elements }, (_, i) => Math.sin(seed * i)))
      }
      return pairsOf(model, adapterFrom(parameters, options, name))
    }

    const next = generator(3)
    const randomIds = (length: number) => Array.from({ length }, () => Math.floor((next() + 1) * 80))
    // one longer than a piece of a prompt, one of a single token; more than are decoded together
    const requests = [3, 600, 1, 17, 9, 40, 2, 5, 8, 30, 12, 7, 21, 513].map((length, i) => ({
      prompt: randomIds(length),
      adapter: i < 10 ? base : adapters[i % adapters.length]!,
      options: { ...generateDefaults, maxNewTokens: 4 + (i % 3), temperature: i % 2, seed: i },
    }))
    const alone = requests.map(({ prompt, adapter, options }) => {
      usePairs(model, adapter)
      return Array.from(generateTokens(model, prompt, options))
    })

    /** The logits of every token of `ids` by one pass over all of them. */
    function logitsOf(ids: readonly number[], adapter: Pairs): Float32Array[] {
      usePairs(model, adapter)
      const ints = Int32Array.from(ids)
      const bounds = Int32Array.of(0, ids.length)
      const logits = forwardLogits(model, { ids: ints, targets: ints, positions: ints.map((_, i) => i), bounds })
      const { vocabSize } = model.config
      return ids.map((_, position) => logits.subarray(position * vocabSize, (position + 1) * vocabSize))
    }
    const logprob = (logits: Float32Array, id: number) =>
      logits[id]! - Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0))

    test.each([1, 3, 14])('gives each of many requests what it gets alone, with %d slots', (slots) => {
      const engine = new Engine(model, slots, 610, adapters)
      const sequences = requests.map(
        ({ prompt, adapter, options }) => new TokenSequence(prompt, adapter, [], { ...options, logprobs: 1 }),
      )
      const waiting = [...sequences]
      while (waiting.length > 0 || !engine.isIdle) {
        if (waiting.length > 0) engine.add(waiting.shift()!) // one a step: they come while others run
        engine.step()
      }
      engine.dispose()
      const generated = sequences.map(({ ids }, i) => ids.slice(requests[i]!.prompt.length))
      // In bf16 a token's neighbours decide which kernel rounds it, and near ties fall either way: there the scores say it.
      if (device.kind === 'cpu') expect(generated).toEqual(alone)
      else
        for (const { ids, adapter, scores } of sequences) {
          const logits = logitsOf(ids, adapter).slice(-scores.length - 1, -1)
          const got = scores.map(({ logprob }) => logprob)
          const want = scores.map(({ id }, i) => logprob(logits[i]!, id))
          expectWithin(got, want, (_, i) => 4e-2 * largest(logits[i]!))
        }
      expect(new Set(alone.map((ids) => ids.join())).size).toBeGreaterThan(10)
    })

    test('an adapter is what the base is with its pairs, and nothing else', () => {
      const prompt = randomIds(12)
      const [first, second] = adapters.map((adapter) => {
        usePairs(model, adapter)
        return Array.from(generateTokens(model, prompt, { ...generateDefaults, maxNewTokens: 8 }))
      })
      expect(second).not.toEqual(first)
    })

    describe('scores', () => {
      const prompt = randomIds(700)
      const score = (options: object) => {
        const engine = new Engine(model, 1, 710, [base])
        const sequence = new TokenSequence(prompt, base, [], { ...generateDefaults, ...options })
        engine.add(sequence)
        while (!sequence.finished) engine.step()
        engine.dispose()
        return sequence
      }

      test('a prompt as the whole forward pass does', () => {
        const { scores, ids } = score({ maxNewTokens: 2, logprobs: 3, scorePrompt: true })
        expect(scores.map(({ id }) => id)).toEqual(ids.slice(1))
        const logits = logitsOf(prompt, base)
        for (const position of [0, 255, 511, 512, 698]) {
          const row = logits[position]!
          const likeliest = Array.from(row.keys()).sort((a, b) => row[b]! - row[a]!)
          const { top, logprob: got } = scores[position]!
          expect(got).toBeCloseTo(logprob(row, prompt[position + 1]!), device.kind === 'cpu' ? 4 : 1)
          if (device.kind === 'cpu') expect(top.map(({ id }) => id)).toEqual(likeliest.slice(0, 3))
        }
      })

      test('a prompt alone, and nothing where nothing is asked for', () => {
        expect(score({ maxNewTokens: 0, logprobs: 0, scorePrompt: true }).scores).toHaveLength(prompt.length - 1)
        const { scores, ids } = score({ maxNewTokens: 0 })
        expect(scores).toEqual([])
        expect(ids).toEqual(prompt)
      })
    })
  }),
)
