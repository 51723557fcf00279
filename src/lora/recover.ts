import { type ErrorDetails, PlanError } from '../errors.ts'
import { type KeptLayer, type PruningPlan, planDigest } from '../formats/pruningJson.ts'
import { type Projection, parseModule, projectionNames } from '../model/model.ts'
import { scatterColumns, scatterRows } from '../native/gather.ts'
import { fillNormal } from '../native/random.ts'
import { keptIndices, originalWidths } from '../prune/plan.ts'
import { cpu } from '../tensor/device.ts'
import { type Tensor, tensorFrom, zeros } from '../tensor/tensor.ts'
import type { Adapter, AdapterModule, Matrix } from './adapter.ts'

/** What recovered rows and columns that pruning cut are filled with. */
export const fills = ['zero', 'normal'] as const
export type Fill = (typeof fills)[number]

/** Standard deviation of `normal`, as in the reference implementation, whatever the rank. */
const normalDeviation = 1 / 8

/**
 * Brings an adapter trained on a pruned model to the dimensions of the original one. Kept rows and columns return to where
 * they were cut from; the others are zero, so weights that were pruned stay exactly as they are in the large model.
 * With rank `r`:  q, k, v, gate, up   B `[keptOut, r]` -> `[out, r]`     o, down   A `[r, keptIn]` -> `[r, in]`
 *
 * @param adapter is not changed
 * @param plan `pruning.json` of the model it was trained on
 * @param fill `normal` draws the cut columns of A for o and down from N(0, 1/64), the reference's other option
 * @throws {PlanError} `E_PLAN`: the adapter was trained on a model of another plan, or has other widths than it keeps
 * @see Zhang et al. 2025, arXiv 2502.13533, "Recovered Low-Rank Matrix Generation"
 */
export function recoverAdapter(adapter: Adapter, plan: PruningPlan, fill: Fill = 'zero'): Adapter {
  if (adapter.pruning !== undefined && adapter.pruning !== planDigest(plan)) {
    throw foreignPlan({ expected: `the plan ${adapter.pruning}`, found: planDigest(plan) })
  }
  const keptLayers = new Map(plan.kept.map((kept) => [kept.layer, kept]))
  const modules = Array.from(adapter.modules, ([name, module]): [string, AdapterModule] => {
    const place = parseModule(name)
    const kept = place && keptLayers.get(place.layer)
    return [name, kept ? recoverModule(name, module, place.projection, kept, plan, fill) : module]
  })
  const { pruning: _trainedOn, ...rest } = adapter
  return { ...rest, base: plan.source.fingerprint, baseModel: plan.source.name, modules: new Map(modules) }
}

const foreignPlan = (details: ErrorDetails) =>
  new PlanError('E_PLAN', 'the adapter was trained on another pruned model', {
    ...details,
    remedy: 'pass the pruning.json beside the model that the adapter was trained on',
  })

function recoverModule(
  name: string,
  { a, b }: AdapterModule,
  projection: Projection,
  kept: KeptLayer,
  plan: PruningPlan,
  fill: Fill,
): AdapterModule {
  const { side, indices } = keptIndices(projection, kept, plan.source)
  const width = originalWidths(plan.source)[projection]
  const found = side === 'out' ? b.shape[0] : a.shape[1]
  if (found !== indices.length) {
    throw foreignPlan({
      tensor: name,
      expected: `${indices.length} of ${width} ${side === 'out' ? 'rows' : 'columns'}, which pruning.json keeps`,
      found: String(found),
    })
  }
  const index = tensorFrom(cpu, indices)
  if (side === 'out') {
    const rows = zeros(cpu, [width, b.shape[1]], 'f32')
    scatterRows(toTensor(b), index, rows)
    return { a, b: toMatrix(rows) }
  }
  const columns = zeros(cpu, [a.shape[0], width], 'f32')
  if (fill === 'normal') {
    const stream = kept.layer * projectionNames.length + projectionNames.indexOf(projection)
    fillNormal(columns, 0, normalDeviation, { seed: plan.seed ?? 0, stream })
  }
  scatterColumns(toTensor(a), index, columns)
  return { a: toMatrix(columns), b }
}

const toTensor = ({ shape, data }: Matrix): Tensor => tensorFrom(cpu, data, shape)
const toMatrix = (tensor: Tensor): Matrix => ({
  shape: tensor.shape as [number, number],
  data: tensor.read() as Float32Array<ArrayBuffer>,
})
