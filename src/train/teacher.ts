import { ConfigError } from '../errors.ts'
import type { Model } from '../model/model.ts'
import { type OpenCheckpoint, openModelFolder, readModel, streamModel } from '../model/open.ts'
import type { ResolvedOptions } from '../options/index.ts'
import type { Device } from '../tensor/tensor.ts'

/** A model whose predictions another one learns, besides the targets. */
export interface Teacher {
  readonly model: Model
  /** Share of the divergence from its predictions in the loss. */
  readonly weight: number
  readonly temperature: number
}

type DistillOptions = NonNullable<NonNullable<ResolvedOptions['align']>['distill']>

export type OpenTeacher = Teacher & { dispose(): void }

/**
 * Opens the model whose predictions `student` learns.
 * @throws {ConfigError} `E_CONFIG`: none is named, or it has another vocabulary
 */
export function openTeacher(
  { teacher, quantize, hold, weight, temperature }: DistillOptions,
  student: OpenCheckpoint,
  device: Device,
): OpenTeacher {
  if (teacher === undefined) {
    throw new ConfigError('E_CONFIG', 'distillation needs a teacher', {
      field: 'align.distill.teacher',
      remedy: 'name the folder of the original model',
    })
  }
  const source = openModelFolder(teacher)
  const [expected, found] = [student.config.vocabSize, source.config.vocabSize]
  if (expected !== found) {
    throw new ConfigError('E_CONFIG', 'the teacher has another vocabulary', {
      field: 'align.distill.teacher',
      expected: `${expected} tokens, as the pruned model`,
      found: String(found),
      remedy: 'name the model that was pruned',
    })
  }
  if (hold === 'streamed') {
    const { model, dispose } = streamModel(source, device, { quantize })
    return { model, weight, temperature, dispose }
  }
  const { model, dispose } = readModel(source, device, { quantize })
  return { model, weight, temperature, dispose }
}
