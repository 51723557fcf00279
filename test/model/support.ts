import path from 'node:path'
import type { MicroBatch } from '../../src/data/batches.ts'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import { parseConfig } from '../../src/model/config.ts'
import { buildModel, logitsOf, type Model, modelForward } from '../../src/model/model.ts'
import { checkpointSource } from '../../src/model/weights.ts'
import { Arena } from '../../src/tensor/arena.ts'
import type { Device } from '../../src/tensor/tensor.ts'
import { toDevice } from '../../src/train/step.ts'
import { expectClose, type readGolden } from '../ops/support.ts'

export function loadDirectory(
  dir: string,
  device: Device,
  quantize: 'none' | 'nf4' = 'none',
  quantizeTables = false,
): Model {
  const checkpoint = openCheckpoint(dir)
  const config = parseConfig(checkpoint.configJson, path.join(dir, 'config.json'), checkpoint.pruning)
  return buildModel(
    config,
    device,
    checkpointSource(checkpoint, device, { quantize, quantizeTables, checkFinite: true }),
  )
}

/** Room enough for any of the tiny models. */
export const testArena = (device: Device) => new Arena(device, 256 << 20)

/** Rows [rows, length] of a padded batch as transformers has it, without the padding: what its attention mask leaves. */
export function unpad(
  ids: Int32Array,
  mask: Int32Array,
  labels: Int32Array,
  rows: number,
): MicroBatch & { kept: number[] } {
  const length = ids.length / rows
  const kept = Array.from(mask.keys()).filter((i) => mask[i]! > 0)
  const counts = Array.from({ length: rows }, (_, r) => kept.filter((i) => Math.floor(i / length) === r).length)
  const bounds = Int32Array.from([0, ...counts.map((_, r) => counts.slice(0, r + 1).reduce((a, b) => a + b, 0))])
  const positions = Int32Array.from(counts.flatMap((count) => Array.from({ length: count }, (_, i) => i)))
  const targets = Int32Array.from(kept, (i) => ((i + 1) % length === 0 ? -100 : labels[i + 1]!))
  return { kept, ids: Int32Array.from(kept, (i) => ids[i]!), positions, bounds, targets }
}

/** The padded batch `<prefix>input_ids` of a golden file, unpadded; number `index` where there are several. */
export function goldenBatch(golden: ReturnType<typeof readGolden>, prefix = '', index = 0) {
  const [rows, length] = golden(`${prefix}input_ids`).shape.slice(-2) as [number, number]
  const part = (name: string) =>
    golden(`${prefix}${name}`).ints.subarray(index * rows * length, (index + 1) * rows * length)
  return unpad(part('input_ids'), part('attention_mask'), part('labels'), rows)
}

/** Logits [tokens, vocab] of a micro-batch. */
export function forwardLogits(model: Model, micro: MicroBatch): Float32Array {
  const arena = testArena(model.device)
  const x = modelForward(model, arena, toDevice(arena, micro))
  const logits = logitsOf(model, x).read() as Float32Array
  arena.dispose()
  return logits
}

/** Fails unless `got` are the golden values, which were computed in fp32. */
export const expectGolden = expectClose

/** Fails unless the model's logits of a golden batch are `want` [rows * length, vocab]. */
export function expectLogits(model: Model, micro: MicroBatch & { kept: number[] }, want: Float32Array): void {
  expectGolden(forwardLogits(model, micro), rowsOf(want, micro.kept, model.config.vocabSize))
}

/** Rows `kept` of golden logits [rows * length, vocab]. */
export const rowsOf = (data: Float32Array, kept: number[], columns: number): Float32Array =>
  Float32Array.from(kept.flatMap((row) => Array.from(data.subarray(row * columns, (row + 1) * columns))))
