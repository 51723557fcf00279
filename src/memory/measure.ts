import type { MicroBatch } from '../data/batches.ts'
import { ConfigError } from '../errors.ts'
import type { LlamaConfig } from '../model/config.ts'
import { buildModel, linears, type Model } from '../model/model.ts'
import { type Holding, metaSource } from '../model/weights.ts'
import { Arena } from '../tensor/arena.ts'
import { metaOf } from '../tensor/device.ts'
import { type Device, Tensor } from '../tensor/tensor.ts'

/** A model of `config`'s shape without data, of the bytes that it has on `device`. */
export function metaModel(config: LlamaConfig, holding: Holding, device: Device): Model {
  const meta = metaOf(device)
  return buildModel(config, meta, metaSource(config, holding, meta))
}

/** A model without data that takes the same bytes of an arena as `model` does, pairs of its adapter included. */
export function metaTwin(model: Model): Model {
  const twin = metaModel(model.config, { quantize: 'none' }, model.device)
  // Products take pairs together that lie side by side.
  const like = ({ shape, dtype, memory: { byteOffset }, pitch }: Tensor) =>
    new Tensor(twin.device, shape, dtype, { storage: undefined, byteOffset }, pitch)
  const originals = linears(model)
  for (const [name, linear] of linears(twin)) {
    const { lora } = originals.get(name)!
    if (!lora) continue
    const { a, b, grads, scale, index } = lora
    linear.lora = {
      a: like(a),
      b: like(b),
      scale,
      index,
      ...(grads && { grads: { a: like(grads.a), b: like(grads.b) } }),
    }
  }
  return twin
}

/** Bytes that `work` takes of an arena on `device`, found by doing it on meta: what the real arena must hold, exactly. */
export function arenaBytes(device: Device, work: (arena: Arena) => void): number {
  const arena = new Arena(metaOf(device))
  work(arena)
  return arena.peak
}

/** Bytes that `work` with `model` takes of an arena. */
export function workBytes(model: Model, work: (model: Model, arena: Arena) => void): number {
  const twin = metaTwin(model)
  return arenaBytes(model.device, (arena) => work(twin, arena))
}

/** An arena on `model`'s device that is just large enough for `work`. */
export const arenaFor = (model: Model, work: (model: Model, arena: Arena) => void): Arena =>
  new Arena(model.device, workBytes(model, work))

/** More than any device holds the activations of. */
const mostTokens = 2 ** 24

/**
 * What takes the most memory of any micro-batch of `tokens` tokens: each is a target, and an example of its own.
 * @throws {ConfigError} `E_CONFIG`: nobody has that much memory
 */
export function fullMicroBatch(tokens: number): MicroBatch {
  if (tokens > mostTokens) {
    throw new ConfigError('E_CONFIG', 'a micro-batch is too long', {
      field: 'sequenceLength',
      expected: `at most ${mostTokens} tokens, microBatchSize times sequenceLength`,
      found: String(tokens),
      remedy: 'lower sequenceLength to what the longest example needs',
    })
  }
  return {
    ids: new Int32Array(tokens),
    targets: new Int32Array(tokens),
    positions: new Int32Array(tokens),
    bounds: new Int32Array(tokens + 1).map((_, i) => i),
  }
}
