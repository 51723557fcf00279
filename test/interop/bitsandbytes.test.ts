import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import type { Matrix } from '../../src/lora/adapter.ts'
import { writeMerged } from '../../src/lora/merge.ts'
import { linears } from '../../src/model/model.ts'
import { cpu } from '../../src/tensor/device.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { forwardLogits, loadDirectory } from '../model/support.ts'
import { expectWithin, generator } from '../ops/support.ts'

const python = process.env.LORAM_PEER_PYTHON
const scriptOf = (name: string) => fileURLToPath(new URL(name, import.meta.url))
const reason = 'LORAM_PEER_PYTHON names no Python with torch, transformers and bitsandbytes'

describe.skipIf(!python)(
  `loram reads what bitsandbytes quantises, and the reverse (skipped: ${python ? '' : reason})`,
  () => {
    const scratch = scratchFolder()

    test.each(['double', 'single'])('with scales that are quantised %s', { timeout: 180_000 }, (scales) => {
      const dir = path.join(scratch, scales)
      execFileSync(python!, [scriptOf('quantize.py'), dir, scales])
      const model = loadDirectory(dir, cpu)
      expect(linears(model).get('model.layers.0.mlp.up_proj')!.weight).toHaveProperty('packed')
      const ids = Int32Array.from({ length: 24 }, (_, i) => (7 * i + 3) % 160)
      const micro = { ids, targets: ids, positions: ids.map((_, i) => i), bounds: Int32Array.of(0, ids.length) }
      const theirs = (folder: string) =>
        JSON.parse(
          execFileSync(python!, [scriptOf('logits.py'), folder, '-', JSON.stringify([...ids])], { encoding: 'utf8' }),
        )
      expectWithin(forwardLogits(model, micro), theirs(dir), () => 1e-3)

      const random = generator(1)
      const matrix = (rows: number, columns: number): Matrix => ({
        shape: [rows, columns],
        data: Float32Array.from({ length: rows * columns }, () => 0.3 * random()),
      })
      const modules = new Map([['model.layers.0.mlp.up_proj', { a: matrix(4, 64), b: matrix(192, 4) }]])
      const adapter = { rank: 4, alpha: 4, useRslora: false, dropout: 0, modules }
      const merged = path.join(scratch, `${scales} merged`)
      writeMerged(openCheckpoint(dir), adapter, merged, { force: true })
      expectWithin(forwardLogits(loadDirectory(merged, cpu), micro), theirs(merged), () => 1e-3)
    })
  },
)
