import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { z } from 'zod'
import type { BatchState } from '../data/batches.ts'
import { alone, type Group, isFirst } from '../distributed/group.ts'
import { RunError } from '../errors.ts'
import { buildFolder, writeFileAtomic } from '../formats/atomic.ts'
import { formatJson, readJsonObject } from '../formats/json.ts'
import { openSafetensors, writeSafetensors } from '../formats/safetensors.ts'
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
  rmSync(folder, { recursive: true, force: true })
  buildFolder(folder, (temporary) => {
    parameters.gather(parameters.values, group)
    saveParameters(path.join(temporary, parametersFile), parameters)
    const moment = (part: Tensor) => ({ shape: [parameters.size], read: () => parameters.gather(part, group).read() })
    const moments = { first_moment: moment(firstMoment), second_moment: moment(secondMoment) }
    saveTensors(path.join(temporary, optimizerFile), new Map(Object.entries(moments)))
    const sha256 = Object.fromEntries(
      [parametersFile, optimizerFile].map((name) => [name, digest(path.join(temporary, name))]),
    )
    writeFileAtomic(path.join(temporary, stateFile), formatJson({ format_version: formatVersion, progress, sha256 }))
  })
  for (const old of checkpointFolders(dir).slice(keep)) rmSync(old, { recursive: true, force: true })
  return folder
}

/** Folders of `dir` that hold checkpoints, the newest first. */
function checkpointFolders(dir: string): string[] {
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
 * @throws {RunError} `E_VERSION`: it was written by a newer loram
 */
export function restoreNewest(
  dir: string,
  parameters: ParameterSet,
  optimizer: AdamW,
  onDamaged: (folder: string) => void,
): Progress | undefined {
  for (const folder of checkpointFolders(dir)) {
    const state = readState(folder)
    if (!state) {
      onDamaged(folder)
      continue
    }
    loadParameters(path.join(folder, parametersFile), parameters)
    const moments = openSafetensors(path.join(folder, optimizerFile))
    const part = (name: string) => parameters.partOf(moments.read(name))
    optimizer.firstMoment.write(part('first_moment'))
    optimizer.secondMoment.write(part('second_moment'))
    moments.close()
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
      return existsSync(part) && digest(part) === sha256
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

const digest = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex')

/** The values of all parameters by name, in f32; what processes divide must be gathered. */
export function saveParameters(file: string, { byName }: ParameterSet): void {
  saveTensors(file, new Map(Array.from(byName, ([name, { value }]) => [name, value])))
}

export function loadParameters(file: string, parameters: ParameterSet): void {
  const saved = openSafetensors(file)
  for (const [name, { value }] of parameters.byName) value.write(saved.read(name))
  parameters.round()
  saved.close()
}

function saveTensors(file: string, tensors: ReadonlyMap<string, Pick<Tensor, 'shape' | 'read'>>): void {
  const entries = Array.from(tensors, ([name, { shape }]) => ({ name, dtype: 'f32' as const, shape: [...shape] }))
  writeSafetensors(file, entries, (name) => new Uint8Array(tensors.get(name)!.read().buffer))
}
