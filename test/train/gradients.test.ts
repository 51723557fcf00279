import { expect, test } from 'vitest'
import { alone, type Group } from '../../src/distributed/group.ts'
import { cpu } from '../../src/tensor/device.ts'
import { requireAgreement } from '../../src/train/agreement.ts'
import { GradientSum } from '../../src/train/gradients.ts'
import { ParameterSet } from '../../src/train/parameters.ts'
import { expectError } from '../formats/scratch.ts'

/** 16 MB a layer, so that two make a piece, beside an embedding and a head. */
const shapes = new Map([
  ['model.embed_tokens.weight', [100]],
  ...Array.from({ length: 5 }, (_, i): [string, number[]] => [`model.layers.${i}.mlp.up_proj.lora_A`, [2 ** 22]]),
  ['lm_head.lora_A', [100]],
])

/** What is added up, as [from, to) of all gradients, after each call of `backward`. */
function sums(parameters: ParameterSet, backward: (sum: GradientSum, asked: () => number[][]) => void): number[][] {
  const asked: number[][] = []
  const group: Group = {
    ...alone,
    sum: ({ memory, elements }) => asked.push([memory.byteOffset / 4, memory.byteOffset / 4 + elements]),
  }
  backward(new GradientSum(group, parameters), () => asked)
  return asked
}

test('gradients are added up as soon as the layers that they belong to are done, all once', () => {
  const parameters = new ParameterSet(cpu, shapes)
  const pieces = sums(parameters, (sum, asked) => {
    const counts = [4, 3, 2, 1, 0].map((layer) => {
      sum.layerDone(layer)
      return asked().length
    })
    expect(counts).toEqual([0, 1, 1, 2, 2])
    sum.finish()
  })
  expect(pieces.map(([from]) => from).slice(0, -1)).toEqual(pieces.slice(1).map(([, to]) => to))
  expect([pieces.at(-1)![0], pieces[0]![1]]).toEqual([0, parameters.grads.elements])
  // A process that has nothing to compute adds up the same pieces
  expect(sums(parameters, (sum) => sum.finish())).toEqual(pieces)
})

test('parameters that differ between processes are an error that names the other one', () => {
  const parameters = new ParameterSet(cpu, new Map([['weight', [3]]]))
  const others = (other: (numbers: readonly number[]) => number[]): Group => ({
    ...alone,
    size: 3,
    gather: (numbers) => [[...numbers], [...numbers], other(numbers)],
  })
  requireAgreement(
    others((numbers) => [...numbers]),
    parameters,
    7,
  )
  const diverged = { expected: 'those of rank 0 after step 7', found: 'others on rank 2 after step 7' }
  expectError(
    () =>
      requireAgreement(
        others(([step, hash]) => [step!, hash! + 1]),
        parameters,
        7,
      ),
    'E_DIVERGED',
    diverged,
  )
})
