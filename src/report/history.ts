import { readFileSync } from 'node:fs'
import path from 'node:path'
import { DataError, messageOf } from '../errors.ts'
import { reading } from '../formats/disk.ts'
import { readJsonObject } from '../formats/json.ts'
import type { RunEvent, Stage } from '../train/events.ts'

type Of<Type extends RunEvent['type']> = Extract<RunEvent, { type: Type }>

/** What a run reported, without the steps that a resumed run did again. */
export interface History {
  /** The folder of the run. */
  name: string
  options: Record<string, unknown>
  steps: Of<'step'>[]
  evaluations: Of<'evaluation'>[]
  samples: Of<'sample'>[]
  plan?: Of<'plan'>['plan']
  notices: string[]
}

/**
 * Reads the record of the run in `dir`, which may still be under way.
 * @throws {FileError} `E_FILE`: there is none
 * @throws {DataError} `E_DATA`: a line of it is damaged
 */
export function readHistory(dir: string): History {
  const options = readJsonObject(path.join(dir, 'run', 'options.json'))
  const history: History = { name: dir, options, steps: [], evaluations: [], samples: [], notices: [] }
  for (const event of readEvents(path.join(dir, 'run', 'events.jsonl'))) {
    if (event.type === 'step') append(history.steps, event)
    else if (event.type === 'evaluation') append(history.evaluations, event)
    else if (event.type === 'sample') history.samples.push(event)
    else if (event.type === 'plan') history.plan = event.plan
    else if (event.type === 'notice') history.notices.push(event.message)
  }
  return history
}

/** Puts `event` behind those before it; later ones were undone by a resume. */
function append<Event extends { stage: Stage; step: number }>(events: Event[], event: Event): void {
  const isUndone = (last?: Event) => last?.stage === event.stage && last.step >= event.step
  while (isUndone(events.at(-1))) events.pop()
  events.push(event)
}

function readEvents(file: string): RunEvent[] {
  const lines = reading(file, () => readFileSync(file, 'utf8')).split('\n')
  // what follows the last line feed is empty, or a line that is being written
  return lines.slice(0, -1).map((line, i) => {
    try {
      return JSON.parse(line)
    } catch (cause) {
      throw new DataError('E_DATA', `${file}:${i + 1} is not an event`, {
        file,
        line: i + 1,
        found: `${line.slice(0, 80)} (${messageOf(cause)})`,
        remedy: 'remove the line',
        cause,
      })
    }
  })
}
