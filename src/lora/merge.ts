import { AdapterError, ModelError } from '../errors.ts'
import { type Checkpoint, writeCheckpoint } from '../formats/huggingFace.ts'
import { parseConfig } from '../model/config.ts'
import { readTensor } from '../model/weights.ts'
import { cast } from '../native/cast.ts'
import { gemm } from '../native/gemm.ts'
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
    throw new ModelError('E_MODEL', 'an adapter cannot be merged into quantised weights', {
      file: checkpoint.dir,
      tensor: name,
      expected: 'f32, bf16 or f16',
      found: 'NF4',
      remedy: 'use the adapter unmerged, or train it on the original weights and merge it into those',
    })
  }
}

/**
 * Writes a checkpoint with `adapter` merged into its weights, in their own dtype. Takes the host memory of one weight.
 * @param options `keepZeros`: what is 0 stays 0, so that a model whose single weights were cut stays sparse
 * @throws {AdapterError} as {@link requireMergeable}
 * @throws {ModelError} `E_MODEL`: the weights are in NF4, which would round the update away
 */
export function writeMerged(
  checkpoint: Checkpoint,
  adapter: Adapter,
  dir: string,
  options: { keepZeros?: boolean } = {},
): void {
  requirePlain(checkpoint)
  requireMergeable(checkpoint, adapter)
  writeCheckpoint(dir, {
    configJson: checkpoint.configJson,
    entries: Array.from(checkpoint.tensors, ([name, { dtype, shape }]) => ({ name, dtype, shape })),
    data: (name) => {
      const weight = readTensor(checkpoint, name, cpu)
      const module = adapter.modules.get(name.replace(/\.weight$/, ''))
      const result = module ? mergeWeight(weight, module, scaleOf(adapter), options) : weight
      const { buffer } = result.read()
      weight.dispose()
      return new Uint8Array(buffer)
    },
    ...(checkpoint.pruning && { pruning: checkpoint.pruning }),
    copyFrom: checkpoint.dir,
  })
}
