import { closeSync, existsSync, fstatSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { z } from 'zod'
import type { BatchState } from '../data/batches.ts'
import { alone, type Group, isFirst } from '../distributed/group.ts'
import { RunError } from '../errors.ts'
import { buildFolder, writeFileAtomic } from '../formats/atomic.ts'
import { formatJson, readJsonObject } from '../formats/json.ts'
import { openSafetensors, writeSafetensors } from '../formats/safetensors.ts'
import { sha256 } from '../formats/sha256.ts'
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

/** Both moments of AdamW, by their names in the file. */
const momentsOf = ({ firstMoment, secondMoment }: AdamW) => ({ first_moment: firstMoment, second_moment: secondMoment })

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
  if (!isFirst(group)) {
    for (const part of [parameters.values, ...Object.values(momentsOf(optimizer))]) parameters.gather(part, group)
    return folder
  }
  const replaced = `${folder}.replaced.tmp-${process.pid}`
  buildFolder(folder, (temporary) => {
    parameters.gather(parameters.values, group)
    saveParameters(path.join(temporary, parametersFile), parameters)
    const moments = Object.entries(momentsOf(optimizer)).map(([name, part]): [string, Saved] => [
      name,
      { shape: [parameters.size], tensor: () => parameters.gather(part, group) },
    ])
    saveTensors(path.join(temporary, optimizerFile), new Map(moments))
    const sha256 = Object.fromEntries(
      [parametersFile, optimizerFile].map((name) => [name, digestOf(path.join(temporary, name))]),
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
    const moments = new Map(Object.entries(momentsOf(optimizer)))
    const shapes = new Map(Array.from(moments.keys(), (name) => [name, [parameters.size]]))
    loadTensors(path.join(folder, optimizerFile), shapes, (name, readInto) =>
      parameters.restore(moments.get(name)!, readInto),
    )
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
      return existsSync(part) && digestOf(part) === sha256
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

function digestOf(file: string): string {
  const fd = openSync(file, 'r')
  try {
    return sha256(fd, fstatSync(fd).size).toString('hex')
  } finally {
    closeSync(fd)
  }
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
  const shapes = new Map(Array.from(parameters.byName, ([name, { value }]) => [name, value.shape]))
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
  shapes: ReadonlyMap<string, readonly number[]>,
  load: (name: string, readInto: ReadInto) => void,
): void {
  const saved = openSafetensors(file)
  try {
    const describe = (name: string, shape: readonly number[]) => `${name} [${shape.join(', ')}]`
    const expected = Array.from(shapes, ([name, shape]) => describe(name, shape)).sort()
    const found = Array.from(saved.tensors, ([name, { shape }]) => describe(name, shape)).sort()
    const longer = found.length > expected.length ? found : expected
    const at = longer.findIndex((_, i) => expected[i] !== found[i])
    if (at >= 0) throw differs(file, expected[at], found[at])
    for (const name of shapes.keys()) load(name, (target, from) => saved.readInto(name, target, from))
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
