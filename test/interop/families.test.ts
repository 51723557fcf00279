import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { expectedTensors } from '../../src/model/config.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { openTrainable } from '../../src/train/align.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectGolden, forwardLogits, loadDirectory } from '../model/support.ts'
import { onEveryDevice, readTensors } from '../ops/support.ts'
import { backward, batchOf, trainerOf } from '../train/support.ts'

const python = process.env.LORAM_PEER_PYTHON
const script = fileURLToPath(new URL('gradients.py', import.meta.url))
const reason = 'LORAM_PEER_PYTHON names no Python with torch and transformers'

const sliding = { use_sliding_window: true, sliding_window: 7, max_window_layers: 1 }
const cases: [string, object][] = [
  ['mistral', {}],
  ['mistral', { sliding_window: null }],
  ['qwen2', {}],
  ['qwen2', { ...sliding, layer_types: null }],
  ['qwen3', { ...sliding, layer_types: ['sliding_attention', 'full_attention'] }],
]

describe.skipIf(!python)(`transformers computes what loram does (skipped: ${python ? '' : reason})`, () => {
  const folder = scratchFolder()
  const ids = Int32Array.from({ length: 40 }, (_, i) => (7 * i * i + 3) % 160)
  const targets = ids.map((_, i) => ids[i + 1] ?? -100)
  const micro = { ids, targets, positions: ids.map((_, i) => i), bounds: Int32Array.of(0, ids.length) }

  onEveryDevice('a family', (device) => {
    test.each(cases)('%s with %j: logits, loss and the gradients of all weights', (name, changes) => {
      const dir = mkdtempSync(path.join(folder, name))
      cpSync(goldenPath('models', name), dir, { recursive: true })
      const file = path.join(dir, 'config.json')
      writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...changes }))
      const out = path.join(dir, 'theirs.safetensors')
      execFileSync(python!, [script, dir, JSON.stringify([...ids]), out])
      const theirs = readTensors(out)

      expectGolden(forwardLogits(loadDirectory(dir, device), micro), theirs('logits').data)
      const opened = openModelFolder(dir)
      const { model, parameters } = openTrainable(opened, [...expectedTensors(opened.config).keys()], device)
      expectGolden([backward(trainerOf(model, parameters), batchOf(micro))], theirs('loss').data)
      expect(parameters.byName.size).toBeGreaterThan(20)
      for (const [weight, { grad }] of parameters.byName) expectGolden(grad, theirs(`grad.${weight}`).data)
    })
  })
})
