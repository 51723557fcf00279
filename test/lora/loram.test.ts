import path from 'node:path'
import { expect, test } from 'vitest'
import { openCheckpoint } from '../../src/formats/huggingFace.ts'
import { readAdapter } from '../../src/formats/peft.ts'
import { adapterFrom, attachAdapter, loraDefaults } from '../../src/lora/attach.ts'
import { recoverAdapter } from '../../src/lora/recover.ts'
import { openModelFolder } from '../../src/model/open.ts'
import { choose } from '../../src/prune/plan.ts'
import { writePruned } from '../../src/prune/slice.ts'
import { structuredImportance } from '../../src/prune/structured.ts'
import { trainStep } from '../../src/train/step.ts'
import { neverAborted } from '../../src/worker/protocol.ts'
import { scratchFolder } from '../formats/scratch.ts'
import { goldenPath } from '../golden.ts'
import { expectLogits, goldenBatch, loadDirectory } from '../model/support.ts'
import { onEveryDevice } from '../ops/support.ts'
import { calibrationText, loram, loramKept, loramLayers, loramPlan } from '../prune/loram.ts'
import { batchOf, peftName, trainAdapter, trainerOf } from '../train/support.ts'

onEveryDevice('LoRAM', (device) => {
  const dir = path.join(scratchFolder(), 'pruned')

  test('prunes, trains, recovers, and the large model has learnt what the golden one has', () => {
    const source = openModelFolder(goldenPath('loram', 'large'))
    const settings = { criterion: 'taylor', grouping: 'aligned', layers: loramLayers, signal: neverAborted } as const
    const scores = structuredImportance(source, device, settings, calibrationText)
    const kept = choose(source.config, 0.65, loramLayers, (layer) => scores.get(layer)!)
    expect(kept).toEqual(loramKept)
    writePruned(source.checkpoint, { ...loramPlan, kept }, dir, neverAborted)

    const small = loadDirectory(dir, device)
    const parameters = trainAdapter(small, readAdapter(goldenPath('loram', 'adapter-pruned')))
    for (const [name, { value }] of parameters.byName) {
      if (name.endsWith('lora_A')) value.write(loram(`init.${peftName(name)}`).data)
      else value.zero()
    }
    parameters.round()
    const trainer = trainerOf(small, parameters)
    for (const step of [0, 1, 2]) trainStep(trainer, batchOf(goldenBatch(loram, 'train.', step)), 5e-3)
    const trained = adapterFrom(parameters, { ...loraDefaults, rank: 4, alpha: 8 }, dir)

    const large = loadDirectory(goldenPath('loram', 'large'), device)
    attachAdapter(large, recoverAdapter(trained, openCheckpoint(dir).pruning!))
    expectLogits(large, goldenBatch(loram), loram('logits.large_recovered').data)
  })
})
