import { readFileSync } from 'node:fs'
import { AdapterError, ModelError } from '../errors.ts'
import { replacedParts, replacementBytes } from '../formats/bitsandbytes.ts'
import { isGguf } from '../formats/gguf/file.ts'
import { type Checkpoint, writeCheckpoint } from '../formats/huggingFace.ts'
import type { TensorEntry } from '../formats/safetensors.ts'
import { parseConfig } from '../model/config.ts'
import { readNf4, readTensor } from '../model/weights.ts'
import { cast } from '../native/cast.ts'
import { gemm } from '../native/gemm.ts'
import { dequantizeNf4, quantizeNf4 } from '../native/nf4.ts'
import { keepZeros } from '../native/optimizer.ts'
import { cpu } from '../tensor/device.ts'
import { type Tensor, tensorFrom } from '../tensor/tensor.ts'
import { type Adapter, type AdapterModule, scaleOf } from './adapter.ts'
import { foreignAdapter, requireBase } from './attach.ts'

/** `weight + scale * B A` in f32. */
export function mergeInFloat32(weight: Tensor, { a, b }: AdapterModule, scale: number): Tensor {
  const merged = cast(weight, 'f32')
  gemm(tensorFrom(cpu, b.data, b.shape), tensorFrom(cpu, a.data, a.shape), merged, { alpha: scale, beta: 1 })
  return merged
}

/** `weight + scale * B A`, added in f32 and rounded once to the weight's dtype. */
export function mergeWeight(
  weight: Tensor,
  module: AdapterModule,
  scale: number,
  options: { keepZeros?: boolean } = {},
): Tensor {
  const merged = mergeInFloat32(weight, module, scale)
  if (options.keepZeros) keepZeros(cast(weight, 'f32'), merged)
  return weight.dtype === 'f32' ? merged : cast(merged, weight.dtype)
}

/**
 * Refuses an adapter whose update cannot become part of the weights of `checkpoint`.
 * @throws {AdapterError} `E_ADAPTER_BASE`: the adapter's modules or widths are not this model's; `E_ADAPTER`: it adapts the
 *   output head of a model whose head is its embedding, which a merge would change too
 */
export function requireMergeable(checkpoint: Checkpoint, adapter: Adapter): void {
  const { tieWordEmbeddings } = parseConfig(checkpoint.configJson, checkpoint.configFile, checkpoint.pruning)
  if (tieWordEmbeddings && adapter.modules.has('lm_head')) {
    throw new AdapterError(
      'E_ADAPTER',
      'an adapted lm_head cannot become part of a model whose head is its embedding',
      {
        file: checkpoint.dir,
        remedy: 'use the adapter unmerged, with loram, PEFT or vLLM',
      },
    )
  }
  requireBase(adapter, checkpoint)
  for (const [name, { a, b }] of adapter.modules) {
    const shape = checkpoint.tensors.get(`${name}.weight`)?.shape
    const found = [b.shape[0], a.shape[1]]
    if (!shape || shape[0] !== found[0] || shape[1] !== found[1]) throw foreignAdapter(name, found, shape)
  }
}

function requirePlain(checkpoint: Checkpoint): void {
  for (const [name, { nf4 }] of checkpoint.tensors) {
    if (!nf4) continue
    throw new ModelError('E_MODEL', 'an adapter is not merged into quantised weights', {
      file: checkpoint.dir,
      tensor: name,
      expected: 'f32, bf16 or f16',
      found: 'NF4, in which the update would be rounded to 4 bits',
      remedy: 'use the adapter unmerged, or merge it into the original weights; `force` merges all the same',
    })
  }
}

/** The tensors that take the place of one of a checkpoint. The bytes of each are asked for once. */
interface Replacement {
  entries: readonly TensorEntry[]
  read(entry: string): Uint8Array
}

/** As {@link mergeWeight}, in the checkpoint's own dtype; without a pair its own bytes. */
function plainReplacement(checkpoint: Checkpoint, name: string, merge: (weight: Tensor) => Tensor): Replacement {
  const { dtype, shape } = checkpoint.tensors.get(name)!
  const read = () => {
    const weight = readTensor(checkpoint, name, cpu)
    const { buffer } = merge(weight).read()
    weight.dispose()
    return new Uint8Array(buffer)
  }
  return { entries: [{ name, dtype, shape }], read }
}

/** Dequantised, added in f32, and quantised again as it was. */
function nf4Replacement(checkpoint: Checkpoint, name: string, module: AdapterModule, scale: number): Replacement {
  const nf4 = checkpoint.tensors.get(name)!.nf4!
  let parts: Map<string, Uint8Array> | undefined
  const merged = () => {
    const weight = readNf4(checkpoint, name, cpu)
    const doubleQuantize = weight.nestedAbsmax !== undefined
    return quantizeNf4(mergeInFloat32(dequantizeNf4(weight, 'f32'), module, scale), { doubleQuantize })
  }
  const read = (entry: string) => {
    parts ??= replacementBytes(checkpoint, nf4, merged())
    const bytes = parts.get(entry)!
    parts.delete(entry)
    return bytes
  }
  return { entries: replacedParts(nf4), read }
}

/**
 * Writes a checkpoint with `adapter` merged into its weights, in their own dtype. Takes the host memory of one weight.
 * @param options `keepZeros`: what is 0 stays 0, so that a model whose single weights were cut stays sparse. `force`: weights
 *   in NF4 are dequantised and quantised again
 * @throws {AdapterError} as {@link requireMergeable}
 * @throws {ModelError} `E_MODEL`: weights are in NF4, which rounds the update away, and it is not forced
 */
export function writeMerged(
  checkpoint: Checkpoint,
  adapter: Adapter,
  dir: string,
  { force = false, ...options }: { keepZeros?: boolean; force?: boolean } = {},
): void {
  if (!force) requirePlain(checkpoint)
  requireMergeable(checkpoint, adapter)
  const scale = scaleOf(adapter)
  const replacements = Array.from(checkpoint.tensors, ([name, { nf4 }]): Replacement => {
    const module = adapter.modules.get(name.replace(/\.weight$/, ''))
    if (!nf4)
      return plainReplacement(checkpoint, name, (weight) =>
        module ? mergeWeight(weight, module, scale, options) : weight,
      )
    return module ? nf4Replacement(checkpoint, name, module, scale) : { entries: nf4.parts, read: checkpoint.read }
  })
  const byEntry = new Map(replacements.flatMap((made) => made.entries.map(({ name }) => [name, made])))
  writeCheckpoint(dir, {
    // to JavaScript 6.0 is 6, which transformers refuses in quantization_config
    configJson: isGguf(checkpoint.dir) ? checkpoint.configJson : readFileSync(checkpoint.configFile, 'utf8'),
    entries: replacements.flatMap(({ entries }) => entries),
    data: (name) => byEntry.get(name)!.read(name),
    ...(checkpoint.pruning && { pruning: checkpoint.pruning }),
    copyFrom: checkpoint.dir,
  })
}
