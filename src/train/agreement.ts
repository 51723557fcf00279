import { createHash } from 'node:crypto'
import type { Group } from '../distributed/group.ts'
import { RunError } from '../errors.ts'
import { readPieces } from '../tensor/pieces.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { ParameterSet } from './parameters.ts'

/**
 * Compares what the processes of a run have come to: they hold the same parameters bit for bit, or something is broken.
 * @throws {RunError} `E_DIVERGED`
 */
export function requireAgreement(group: Group, { values, isDivided }: ParameterSet, step: number): void {
  if (group.size === 1) return
  // What is divided, each process has from the others
  const digest = isDivided ? 0 : digestOf(values)
  const rows = group.gather([step, digest])
  const [first] = rows
  const other = rows.findIndex((row) => row.some((value, i) => value !== first![i]))
  if (other < 0) return
  throw new RunError('E_DIVERGED', 'the processes of this run have different parameters', {
    expected: `those of rank 0 after step ${first![0]}`,
    found: `others on rank ${other} after step ${rows[other]![0]}`,
    remedy: 'start all with the same options and files, in a folder that they share; or else a GPU computes wrongly',
  })
}

function digestOf(values: Tensor): number {
  const hash = createHash('sha256')
  for (const piece of readPieces(values)) hash.update(piece)
  return hash.digest().readUIntBE(0, 6)
}
