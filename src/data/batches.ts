import { alone, type Share, shareOf } from '../distributed/group.ts'
import { ConfigError, DataError } from '../errors.ts'
import { countTargets, type Example, type Examples } from './encode.ts'
import { packBestFit } from './packing.ts'
import { permutation } from './random.ts'

/** Examples one behind the other, without padding: `tokens` in all, at most `microBatchSize * sequenceLength`. */
export interface MicroBatch {
  /** `[tokens]` */
  ids: Int32Array
  /** `[tokens]`: what each position must predict, or `ignoredTarget`. */
  targets: Int32Array
  /** `[tokens]`: from 0 in each example. */
  positions: Int32Array
  /** `[examples + 1]`: where examples start, from 0 to `tokens`. Attention does not cross them. */
  bounds: Int32Array
}

/** What one optimizer step learns from. */
export interface Batch {
  /** Of several processes, those that fall to this one. */
  microBatches: MicroBatch[]
  /** Targets in all micro-batches, other processes' too: what the step's summed loss is divided by. */
  targetCount: number
  epoch: number
  /** Indices of its examples, for reports. */
  examples: number[]
}

export interface BatchOptions {
  /** Examples in a batch, or rows when packing. */
  batchSize: number
  /** Examples (rows) that pass through the model at once. */
  microBatchSize: number
  /** Tokens in the longest example; when packing, in a row. */
  sequenceLength: number
  /** Puts several examples in a row, which saves nothing in tokens but evens out the size of micro-batches. */
  packing: boolean
  shuffle: boolean
  /** An integer, 0 or more. */
  seed: number
  /** Leaves out an epoch's last batch where it is not full. */
  dropLast: boolean
  /** Which micro-batches of each batch are made; default all. */
  share?: Share
}

/** Where a stream stands: the epoch, and how many of its examples (rows) were given out. */
export interface BatchState {
  epoch: number
  position: number
}

export interface BatchStream extends Iterable<Batch> {
  /** Moves on when a batch is given out. Passed to `batchStream`, the same batches follow. */
  readonly state: BatchState
  readonly batchesPerEpoch: number
  /** In a full batch, all processes' together. */
  readonly microBatchesPerBatch: number
}

/**
 * Batches without end, epoch after epoch. The order within an epoch depends on seed and epoch alone.
 *
 * @throws {ConfigError} `E_CONFIG`: `dropLast` leaves no batch.
 * @throws {DataError} `E_DATA`: an example is longer than `sequenceLength`.
 */
export function batchStream(
  examples: Examples,
  options: BatchOptions,
  { epoch, position }: BatchState = { epoch: 0, position: 0 },
): BatchStream {
  const { batchSize, microBatchSize, sequenceLength, packing, shuffle, seed, dropLast, share = alone } = options
  for (let i = 0; i < examples.length; i++) checkLength(i, examples.tokens(i), sequenceLength)
  const rows = packing ? packedRows(examples, sequenceLength) : { length: examples.length, at: (i: number) => [i] }
  const rowsPerEpoch = dropLast ? rows.length - (rows.length % batchSize) : rows.length
  if (rowsPerEpoch === 0) {
    throw new ConfigError('E_CONFIG', 'The data do not fill one batch', {
      field: 'batchSize',
      expected: `at most ${rows.length}`,
      found: String(batchSize),
      remedy: 'lower batchSize, or turn dropLast or packing off',
    })
  }
  const state = { epoch, position }
  function* batches(): Generator<Batch> {
    for (; ; state.epoch++, state.position = 0) {
      const order = shuffle
        ? permutation(rows.length, seed, state.epoch)
        : Uint32Array.from({ length: rows.length }, (_, i) => i)
      while (state.position < rowsPerEpoch) {
        const end = Math.min(state.position + batchSize, rowsPerEpoch)
        const chosen = Array.from(order.subarray(state.position, end), (row) => rows.at(row))
        state.position = end
        yield makeBatch(examples, chosen, microBatchSize, state.epoch, share)
      }
    }
  }
  return {
    state,
    batchesPerEpoch: Math.ceil(rowsPerEpoch / batchSize),
    microBatchesPerBatch: Math.ceil(batchSize / microBatchSize),
    [Symbol.iterator]: batches,
  }
}

/** Every example once and in order, for evaluation. */
export function* evaluationBatches(
  examples: Iterable<Example>,
  { microBatchSize, sequenceLength }: Pick<BatchOptions, 'microBatchSize' | 'sequenceLength'>,
): Generator<MicroBatch> {
  let waiting: Example[] = []
  let index = 0
  for (const example of examples) {
    checkLength(index++, example.ids.length, sequenceLength)
    if (waiting.push(example) < microBatchSize) continue
    yield concatenate(waiting)
    waiting = []
  }
  if (waiting.length > 0) yield concatenate(waiting)
}

/** Which examples a row holds. */
interface Rows {
  readonly length: number
  at(row: number): number[]
}

function packedRows(examples: Examples, sequenceLength: number): Rows {
  const lengths = Uint32Array.from({ length: examples.length }, (_, i) => examples.tokens(i))
  const { members, bounds } = packBestFit(lengths, sequenceLength)
  return { length: bounds.length - 1, at: (row) => [...members.subarray(bounds[row], bounds[row + 1])] }
}

function makeBatch(examples: Examples, rows: number[][], microBatchSize: number, epoch: number, share: Share): Batch {
  const read = rows.map((row) => row.map((member) => examples.at(member)))
  const micros = Array.from({ length: Math.ceil(rows.length / microBatchSize) }, (_, i) =>
    read.slice(i * microBatchSize, (i + 1) * microBatchSize).flat(),
  )
  const targetCount = read.flat().reduce((sum, { targets }) => sum + countTargets(targets), 0)
  const microBatches = Array.from(shareOf(micros, share), concatenate)
  return { microBatches, targetCount, epoch, examples: rows.flat() }
}

function concatenate(examples: readonly Example[]): MicroBatch {
  const bounds = Int32Array.from([0, ...examples.map(({ ids }) => ids.length)])
  for (let i = 1; i < bounds.length; i++) bounds[i]! += bounds[i - 1]!
  const tokens = bounds.at(-1)!
  const micro = {
    ids: new Int32Array(tokens),
    targets: new Int32Array(tokens),
    positions: new Int32Array(tokens),
    bounds,
  }
  examples.forEach(({ ids, targets }, i) => {
    micro.ids.set(ids, bounds[i])
    micro.targets.set(targets, bounds[i])
    micro.positions.set([...ids.keys()], bounds[i])
  })
  return micro
}

function checkLength(index: number, tokens: number, sequenceLength: number): void {
  if (tokens <= sequenceLength) return
  throw new DataError('E_DATA', `Example ${index} is longer than a sequence`, {
    expected: `at most ${sequenceLength} tokens`,
    found: `${tokens} tokens`,
    remedy: 'load the data with the sequence length that batches have',
  })
}
