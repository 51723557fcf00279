import { createHash } from 'node:crypto'
import { closeSync, existsSync, openSync, readdirSync, readSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { z } from 'zod'
import type { BatchState } from '../data/batches.ts'
import { alone, type Group, isFirst } from '../distributed/group.ts'
import { RunError } from '../errors.ts'
import { buildFolder, writeFileAtomic } from '../formats/atomic.ts'
import { formatJson, readJsonObject } from '../formats/json.ts'
import { openSafetensors, writeSafetensors } from '../formats/safetensors.ts'
import { readPieces, writePieces } from '../tensor/pieces.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { AdamW } from './adamW.ts'
import type { ParameterSet } from './parameters.ts'

const formatVersion = 1
const stateFile = 'state.json'
const parametersFile = 'parameters.safetensors'
const optimizerFile = 'optimizer.safetensors'

/** Where training stands between two steps; all else follows from the options and the data. */
export interface Progress {
  /** Optimizer steps done. */
  step: number
  /** Where the batch stream goes on. */
  batches: BatchState
  /** The last step that was evaluated. */
  evaluatedStep: number
  /** The best evaluation so far, and how many came since. */
  best?: { step: number; loss: number }
  evaluationsSinceBest: number
}

const stateSchema = z.object({
  format_version: z.int(),
  progress: z.object({
    step: z.int(),
    batches: z.object({ epoch: z.int(), position: z.int() }),
    evaluatedStep: z.int(),
    best: z.object({ step: z.int(), loss: z.number() }).exactOptional(),
    evaluationsSinceBest: z.int(),
  }),
  sha256: z.record(z.string(), z.string()),
})

const folderOf = (dir: string, step: number) => path.join(dir, `step-${String(step).padStart(8, '0')}`)

/**
 * Writes everything training needs to go on from here as the folder `dir/step-<n>`, which appears whole or not at all, and
 * removes all but the newest `keep`. Of several processes each must call it; rank 0 writes.
 */
export function saveCheckpoint(
  dir: string,
  parameters: ParameterSet,
  optimizer: AdamW,
  progress: Progress,
  keep: number,
  group: Group = alone,
): string {
  const folder = folderOf(dir, progress.step)
  const { firstMoment, secondMoment } = optimizer
  if (!isFirst(group)) {
    for (const part of [parameters.values, firstMoment, secondMoment]) parameters.gather(part, group)
    return folder
  }
  const replaced = `${folder}.replaced.tmp-${process.pid}`
  buildFolder(folder, (temporary) => {
    parameters.gather(parameters.values, group)
    saveParameters(path.join(temporary, parametersFile), parameters)
    const moment = (part: Tensor): Saved => ({ shape: [parameters.size], tensor: () => parameters.gather(part, group) })
    const moments = { first_moment: moment(firstMoment), second_moment: moment(secondMoment) }
    saveTensors(path.join(temporary, optimizerFile), new Map(Object.entries(moments)))
    const sha256 = Object.fromEntries(
      [parametersFile, optimizerFile].map((name) => [name, sha256Of(path.join(temporary, name))]),
    )
    writeFileAtomic(path.join(temporary, stateFile), formatJson({ format_version: formatVersion, progress, sha256 }))
    // One of the same step stays until this one is whole
    if (existsSync(folder)) renameSync(folder, replaced)
  })
  rmSync(replaced, { recursive: true, force: true })
  for (const old of checkpointsIn(dir).slice(keep)) rmSync(old, { recursive: true, force: true })
  return folder
}

/** Folders of `dir` that hold checkpoints, the newest first. */
export function checkpointsIn(dir: string): string[] {
  if (!existsSync(dir)) return []
  const names = readdirSync(dir).filter((name) => /^step-\d{8}$/.test(name))
  return names
    .sort()
    .reverse()
    .map((name) => path.join(dir, name))
}

/**
 * Restores the newest checkpoint of `dir` that is complete and undamaged.
 * @param onDamaged is told of each that is not
 * @returns `undefined`: there is none
 * @throws {RunError} `E_VERSION`: it was written by a newer loram; `E_RESUME`: it is of another adapter or model
 */
export function restoreNewest(
  dir: string,
  parameters: ParameterSet,
  optimizer: AdamW,
  onDamaged: (folder: string) => void,
): Progress | undefined {
  for (const folder of checkpointsIn(dir)) {
    const state = readState(folder)
    if (!state) {
      onDamaged(folder)
      continue
    }
    loadParameters(path.join(folder, parametersFile), parameters)
    const { size } = parameters
    loadTensors(path.join(folder, optimizerFile), { first_moment: [size], second_moment: [size] }, (name, readInto) => {
      parameters.restore(name === 'first_moment' ? optimizer.firstMoment : optimizer.secondMoment, readInto)
    })
    optimizer.step = state.progress.step
    return state.progress
  }
  return undefined
}

/** A checkpoint's state, or `undefined` where a file is missing or not what was written. */
function readState(folder: string): z.infer<typeof stateSchema> | undefined {
  const file = path.join(folder, stateFile)
  const json = parsed(file)
  if (!json) return undefined
  if (typeof json.format_version === 'number' && json.format_version > formatVersion) {
    throw new RunError('E_VERSION', 'the checkpoint was written by a newer loram', {
      file,
      expected: `format_version ${formatVersion}`,
      found: String(json.format_version),
      remedy: 'update loram',
    })
  }
  const { data: state } = stateSchema.safeParse(json)
  const whole =
    state &&
    Object.entries(state.sha256).every(([name, sha256]) => {
      const part = path.join(folder, name)
      return existsSync(part) && sha256Of(part) === sha256
    })
  return whole ? state : undefined
}

function parsed(file: string): Record<string, unknown> | undefined {
  try {
    return readJsonObject(file)
  } catch {
    return undefined
  }
}

function sha256Of(file: string): string {
  const hash = createHash('sha256')
  const buffer = new Uint8Array(2 ** 23)
  const fd = openSync(file, 'r')
  try {
    for (let count = 1; count > 0; ) {
      count = readSync(fd, buffer)
      hash.update(buffer.subarray(0, count))
    }
  } finally {
    closeSync(fd)
  }
  return hash.digest('hex')
}

/** The values of all parameters by name, in f32; what processes divide must be gathered. */
export function saveParameters(file: string, { byName }: ParameterSet): void {
  saveTensors(
    file,
    new Map(Array.from(byName, ([name, { value }]) => [name, { shape: value.shape, tensor: () => value }])),
  )
}

/** @throws {RunError} `E_RESUME`: they are those of another adapter or model */
export function loadParameters(file: string, parameters: ParameterSet): void {
  const shapes = Object.fromEntries(Array.from(parameters.byName, ([name, { value }]) => [name, value.shape]))
  loadTensors(file, shapes, (name, readInto) => writePieces(parameters.get(name).value, readInto))
  parameters.round()
}

/** An f32 tensor to be written. */
interface Saved {
  shape: readonly number[]
  tensor: () => Tensor
}

function saveTensors(file: string, tensors: ReadonlyMap<string, Saved>): void {
  const entries = Array.from(tensors, ([name, { shape }]) => ({ name, dtype: 'f32' as const, shape: [...shape] }))
  writeSafetensors(file, entries, (name) => readPieces(tensors.get(name)!.tensor()))
}

type ReadInto = (target: Uint8Array, from: number) => void

function loadTensors(
  file: string,
  shapes: Record<string, readonly number[]>,
  load: (name: string, readInto: ReadInto) => void,
): void {
  const saved = openSafetensors(file)
  try {
    const list = (of: [string, readonly number[]][]) =>
      of.map(([name, shape]) => `${name} [${shape.join(', ')}]`).sort()
    const expected = list(Object.entries(shapes))
    const found = list(Array.from(saved.tensors, ([name, { shape }]) => [name, shape]))
    const at = expected.findIndex((tensor, i) => tensor !== found[i])
    if (at >= 0 || found.length !== expected.length) throw differs(file, expected[at], found[Math.max(at, 0)])
    for (const name of Object.keys(shapes)) load(name, (target, from) => saved.readInto(name, target, from))
  } finally {
    saved.close()
  }
}

const differs = (file: string, expected = 'no more tensors', found = 'no more tensors') =>
  new RunError('E_RESUME', 'the checkpoint is of another adapter or model', {
    file,
    expected,
    found,
    remedy: 'resume with the rank, the targets and the model that it was started with, or start anew in another folder',
  })
