import * as api from '../../api/plan.ts'
import { formatBytes } from '../../memory/bytes.ts'
import { planCommandOptions } from '../../options/index.ts'
import { describeRecompute } from '../../train/recompute.ts'
import { command } from '../command.ts'
import { table } from '../output.ts'

export const plan = command({
  name: 'plan',
  description: 'Parameters and memory of training a model, from its config.json alone',
  options: planCommandOptions,
  run: async (options) => api.plan(options),
  show: ({ original, alignment = [], training: { parameters, bytes, recompute, quantizeTables, reduction } }) =>
    table([
      ['original model', `${count(original.parameters)} parameters, ${formatBytes(original.bytes.total)}`],
      ['trained on', `${count(parameters.trained)} parameters, a reduction of ${reduction.toFixed(2)}x`],
      ['adapter', `${count(parameters.adapter)} parameters`],
      ['recompute', describeRecompute(recompute)],
      ['memory of training', formatBytes(bytes.total)],
      ['  embedding and head', `${formatBytes(bytes.tables)}${quantizeTables ? ' in NF4' : ''}`],
      ['  projections', formatBytes(bytes.projections)],
      ['  norms', formatBytes(bytes.norms)],
      ['  adapter', `${formatBytes(bytes.adapter)}, gradients and AdamW included`],
      ['  activations', formatBytes(bytes.activations)],
      ['  scratch', formatBytes(bytes.scratch)],
      ['host memory', formatBytes(bytes.host)],
      ...alignment.map(({ gpus, bytes, fits }): [string, string] => [
        gpus === 1 ? 'alignment on one GPU' : `  on each of ${gpus}`,
        `${formatBytes(bytes.total)}${fits ? '' : ', which does not fit'}`,
      ]),
    ]),
})

const count = (parameters: number) => parameters.toLocaleString('en-US')
