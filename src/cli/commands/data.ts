import * as api from '../../api/stages.ts'
import type { DataPreview, Sample } from '../../data/preview.ts'
import { previewOptions } from '../../options/index.ts'
import { command } from '../command.ts'
import { notice, table } from '../output.ts'
import { abortOnSignal } from '../signals.ts'

export const dataPreview = command({
  name: 'data preview',
  description: 'How training sees a data set: examples with what of them is learnt, and counts',
  options: previewOptions,
  run: (options) =>
    api.previewData({
      ...options,
      signal: abortOnSignal(notice),
      onEvent: (event) => event.type === 'notice' && notice(event.message),
    }),
  show: (preview) => showPreview(preview, process.stdout.isTTY && !process.env.NO_COLOR),
})

/** @param colour what is learnt is green; without, it stands between ⟦ and ⟧ */
export function showPreview({ statistics, samples }: DataPreview, colour: boolean): string {
  const { tokens, targets, truncated, truncatedTokens, ...counts } = statistics
  return [
    ...samples.map((sample, i) => showSample(sample, i + 1, colour)),
    table([
      ['examples', String(counts.examples)],
      ['tokens', `${tokens}, ${targets} of them learnt`],
      ['truncated', `${truncated}, which lost ${truncatedTokens} tokens`],
      ['empty', `${counts.empty} with an answer without text`],
      ['all masked', `${counts.masked} left out with nothing to learn`],
      ['duplicates', `${counts.duplicates} left out`],
      ['bad lines', `${counts.badLines} skipped`],
    ]),
  ].join('\n\n')
}

function showSample({ tokens, targets, pieces }: Sample, number: number, colour: boolean): string {
  const [open, close] = colour ? ['\u001b[32m', '\u001b[39m'] : ['⟦', '⟧']
  const text = pieces.map((piece) => (piece.learnt ? open + visible(piece.text) + close : visible(piece.text)))
  return `example ${number}: ${targets} of ${tokens} tokens are learnt\n${text.join('')}`
}

/** Data must not steer the terminal: control characters become the symbols for them. */
const visible = (text: string) =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, (control) => {
    const code = control.charCodeAt(0)
    return code < 32 ? String.fromCharCode(0x2400 + code) : '\u2421'
  })
